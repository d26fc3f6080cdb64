//! Named parameters and the layers that own them, built from public operations only.
//!
//! A layer holds names; values are in [`Params`] on the host, in a [`Store`](crate::Store) on a device.
//!
//! ```
//! use wgrad::nn::{Linear, Params};
//! use wgrad::{Device, Feed, Graph, Store, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let mut params = Params::new(1);
//! let layer = Linear::new(&mut params, "layer", 3, 2, true); // "layer.weight" [2, 3], "layer.bias" [2]
//!
//! let (device, graph) = (Device::cpu(), Graph::new());
//! let x = graph.input("x", TensorType::f32([1, 3]));
//! let y = layer.forward(&params.vars(&graph), x);
//! let plan = device.compile_blocking(&graph, &[("y", y)])?;
//!
//! let store = Store::new(&device);
//! params.load_into(&store)?;
//! plan.run(&Feed::new().store(&store).input("x", &Tensor::f32([1, 3], vec![1.0; 3])?))?;
//! assert_eq!(plan.read_blocking("y")?.floats().len(), 2);
//! # Ok(())
//! # }
//! ```

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
