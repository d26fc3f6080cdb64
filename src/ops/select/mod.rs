//! Selection: the largest entries of rows, taking and scattering along an axis, drawing tokens.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.input("x", TensorType::f32([1, 5]));
//! let best = x.top_k(2); // descending, ties to the lower index
//! let plan = Device::cpu().compile_blocking(&graph, &[("values", best.values), ("indices", best.indices)])?;
//! plan.run(&Feed::new().input("x", &Tensor::f32([1, 5], vec![1.0, 9.0, 4.0, 9.0, 0.0])?))?;
//! assert_eq!(plan.read_blocking("values")?.floats(), [9.0, 9.0]);
//! assert_eq!(plan.read_blocking("indices")?.ints(), [1, 3]);
//! # Ok(())
//! # }
//! ```

pub mod along;
pub mod sample;
pub mod top_k;
mod top_k_cpu;

pub use sample::{Sampling, SamplingVars};
pub use top_k::TopK;
