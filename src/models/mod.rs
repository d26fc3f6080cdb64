//! The systems of differentiable memory and routing, built only from public operations.
//!
//! ```
//! use wgrad::models::{InfiniConfig, InfiniTransformer};
//! # fn main() -> wgrad::Result<()> {
//! let model = InfiniTransformer::new(InfiniConfig { heads: 2, dim_head: 4, ..InfiniConfig::new(256, 8, 1) })?;
//! let params = model.init(1); // named as in the PyTorch package
//! assert_eq!(params.get("token_emb.weight")?.shape()[..], [256, 8]);
//! # Ok(())
//! # }
//! ```

pub mod conditional;
mod feeding;
mod generation;
pub mod infini;
pub mod long_memory;
pub mod mix;
mod parts;
pub mod product_key;
pub mod recognise;
pub mod recurrent;
mod stream_states;

pub use infini::{InfiniConfig, InfiniTransformer};
pub use mix::{MemoryConfig, MemoryTransformer};
pub use recurrent::{BlockRecurrentConfig, BlockRecurrentTransformer};
