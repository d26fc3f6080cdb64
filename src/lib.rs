//! Portable WebGPU compute with a reverse-mode tape: differentiable memory layers on any GPU, natively and in the
//! browser. The models are in [`models`].

#![deny(missing_docs)]
// But for one door to the `gemm` crate; what macros of wasm-bindgen write is theirs.
#![cfg_attr(not(target_arch = "wasm32"), deny(unsafe_code))]
// In the browser WebGPU handles stay on their thread; natively the same types are Send and Sync.
#![cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync))]
// Without the CPU executor or its oracle some code stands idle.
#![cfg_attr(not(feature = "oracle"), allow(dead_code, unused_imports))]

#[doc(hidden)]
pub mod demo;
pub mod device;
pub mod error;
pub mod exec;
pub mod graph;
pub mod kernels;
pub mod models;
pub mod nn;
pub mod ops;
pub mod plan;
pub mod train;
pub mod types;
#[cfg(target_arch = "wasm32")]
mod web;

pub use device::{Device, GpuOptions};
pub use error::{Error, Result};
pub use exec::{Feed, Plan, PlanCache, Store};
pub use graph::{Graph, Mode, Var};
pub use plan::Options;
pub use types::{DType, Data, Shape, Tensor, TensorType};

/// The README's example is compiled and run like those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
