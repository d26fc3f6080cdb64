//! Portable WebGPU compute with a reverse-mode tape: differentiable memory and routing layers on any GPU, natively and
//! in the browser.

#![deny(missing_docs)]

pub mod device;
pub mod error;
pub mod exec;
pub mod graph;
pub mod kernels;
pub mod nn;
pub mod ops;
pub mod plan;
pub mod types;

pub use device::{Device, GpuOptions};
pub use error::{Error, Result};
pub use exec::{Feed, Plan, Store};
pub use graph::{Graph, Mode, Var};
pub use plan::Options;
pub use types::{DType, Data, Shape, Tensor, TensorType};
