//! The systems of differentiable memory and routing, built only from public operations.

pub mod conditional;
mod generation;
pub mod infini;
pub mod long_memory;

pub use infini::{InfiniConfig, InfiniTransformer};
