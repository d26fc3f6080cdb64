//! Named parameters and the layers that own them, built from public operations only.

mod bank;
mod embedding;
mod init;
mod linear;
mod local_attention;
mod params;
mod sharded;
mod vars;

pub(crate) use bank::stored;
pub use bank::{Bank, BankType, Storage};
pub use embedding::Embedding;
pub use init::Init;
pub use linear::Linear;
pub use local_attention::{LocalAttention, LocalAttentionConfig};
pub(crate) use params::Shard;
pub use params::{Param, Params};
pub use sharded::{Sharded, ShardedType};
pub use vars::ParamVars;
