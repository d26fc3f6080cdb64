//! Block-recurrent transformer (Hutchins et al. 2022, arXiv 2203.07852): a decoder that reads a text in blocks, remembers the
//! keys and values of the last block in every layer, and carries a bank of state vectors from block to block in some.
//!
//! Parameters carry the names of the PyTorch package `block-recurrent-transformer-pytorch`, so its checkpoints load by name.
//! Defaults are those of its version 0.4.4; what was different in 0.3.2 and before is an option.
//!
//! ```
//! use wgrad::models::recurrent::{BlockRecurrentConfig, BlockRecurrentTransformer, Carried};
//! use wgrad::{Graph, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let config = BlockRecurrentConfig {
//!     heads: 2,
//!     dim_head: 8,
//!     block_width: 8,
//!     max_seq_len: 16,
//!     ..BlockRecurrentConfig::new(32, 16, 2)
//! };
//! let model = BlockRecurrentTransformer::new(config)?;
//! let graph = Graph::new();
//! let p = model.init(1).vars(&graph);
//! let ids = graph.input("ids", TensorType::u32([1, 16]));
//! let (logits, carried) = model.forward(&p, ids, &Carried::default());
//! let (next, _) = model.forward(&p, ids, &carried); // what follows the first 16 tokens
//! assert_eq!(logits.shape(), next.shape());
//! # Ok(())
//! # }
//! ```

mod attention;
mod config;
mod core;
mod feed_forward;
mod gate;
mod memory;
mod norm;
mod resume;
mod state;
mod stream;
mod stream_plans;
mod transformer;
mod wrapper;

pub use crate::ops::select::Sampling;
pub use attention::{Attended, AttentionBlock, AttentionBlockConfig, BlockCache, Projected};
pub use config::{BlockRecurrentConfig, LongMemoryLayers, Lookback};
pub use feed_forward::FeedForward;
pub use gate::{GateConfiguration, GateKind};
pub use memory::{Compression, Memory};
pub use state::{Readable, StateContainer, StateContainerConfig, StateView, States};
pub use stream::{RecurrentStream, filter_thres};
pub use stream_plans::RecurrentStreamPlans;
pub use transformer::{BlockRecurrentTransformer, Carried};
pub use wrapper::RecurrentTrainerWrapper;
