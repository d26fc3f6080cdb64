//! Portable WebGPU compute with a reverse-mode tape: differentiable memory and routing on any GPU, natively and in the
//! browser, and on the CPU where there is none.
//!
//! A [`Graph`] says what to compute, [`Graph::gradients`] appends how to differentiate it, [`Device::compile`] makes a [`Plan`] that
//! is replayed with one submit a run; states live in a [`Store`]. [`train`] makes whole training steps of it, [`nn`] has
//! parameters and layers, and the four systems are in [`models`].
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor, TensorType};
//!
//! # fn main() -> wgrad::Result<()> {
//! let device = Device::cpu(); // or Device::auto_blocking()?: a GPU if there is one
//! let graph = Graph::new();
//! let x = graph.input("x", TensorType::f32([3]));
//! let [gradient] = graph.gradients(x.square().sum_all(), [x]);
//! let plan = device.compile_blocking(&graph, &[("gradient", gradient)])?;
//! plan.run(&Feed::new().input("x", &Tensor::f32([3], vec![1.0, 2.0, 3.0])?))?;
//! assert_eq!(plan.read_blocking("gradient")?.floats(), [2.0, 4.0, 6.0]);
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]
// But for doors to the crates `gemm` and `memmap2`; what macros of wasm-bindgen write is theirs.
#![cfg_attr(not(target_arch = "wasm32"), deny(unsafe_code))]
// In the browser WebGPU handles stay on their thread; natively the same types are Send and Sync.
#![cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync))]
// Without the CPU executor or its oracle some code stands idle.
#![cfg_attr(not(feature = "oracle"), allow(dead_code, unused_imports))]

pub mod check;
#[cfg(not(target_arch = "wasm32"))]
pub mod data;
#[doc(hidden)]
pub mod demo;
pub mod device;
pub mod error;
pub mod exec;
pub mod graph;
pub mod kernels;
pub mod models;
#[cfg(not(target_arch = "wasm32"))]
mod new_file;
pub mod nn;
pub mod ops;
pub mod plan;
mod trace;
pub mod train;
pub mod types;
#[cfg(target_arch = "wasm32")]
mod web;

pub use device::{Device, GpuOptions};
pub use error::{Error, Result};
pub use exec::{Feed, Plan, PlanCache, Store};
pub use graph::{Graph, Mode, Var};
pub use ops::custom::CustomOp;
pub use plan::Options;
/// The GPU library, in the version that this one is built with: its devices, buffers and encoders can be shared.
pub use wgpu;

pub use types::{DType, Data, Shape, Tensor, TensorType};

/// The README's example is compiled and run like those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So are the guide's.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../docs/guide/src/concepts.md")]
    struct Concepts;
    #[doc = include_str!("../docs/guide/src/first_layer.md")]
    struct FirstLayer;
    #[doc = include_str!("../docs/guide/src/training.md")]
    struct Training;
    #[doc = include_str!("../docs/guide/src/checkpoints.md")]
    struct Checkpoints;
    #[doc = include_str!("../docs/guide/src/memory.md")]
    struct Memory;
    #[doc = include_str!("../docs/guide/src/routing.md")]
    struct Routing;
    #[doc = include_str!("../docs/guide/src/sharing.md")]
    struct Sharing;
    #[doc = include_str!("../docs/guide/src/custom_op.md")]
    struct CustomOp;
    #[doc = include_str!("../docs/guide/src/debugging.md")]
    struct Debugging;
    #[doc = include_str!("../docs/guide/src/performance.md")]
    struct Performance;
}
