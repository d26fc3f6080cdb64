//! Named parameters and the layers that own them, built from public operations only.

mod bank;
mod embedding;
mod init;
mod layout;
mod linear;
mod local_attention;
mod param;
mod params;
mod quant_table;
mod sharded;
mod vars;

pub(crate) use bank::stored;
pub use bank::{Bank, BankType, Storage};
pub use embedding::Embedding;
pub use init::Init;
pub(crate) use layout::{Segment, Shard, read};
pub use linear::Linear;
pub use local_attention::{LocalAttention, LocalAttentionConfig};
pub use param::Param;
pub use params::Params;
pub use quant_table::{QuantRows, QuantTable, QuantTableType, Quantization};
pub use sharded::{Sharded, ShardedType};
pub use vars::{ParamVars, Table};
