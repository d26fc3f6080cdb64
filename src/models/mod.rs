//! The systems of differentiable memory and routing, built only from public operations.

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
