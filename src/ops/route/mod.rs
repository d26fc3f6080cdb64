//! Operations that route tokens: which of them take part, and how much.
//!
//! ```
//! use wgrad::ops::route::soft_top_k::SoftTopK;
//! use wgrad::{Device, Feed, Graph, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let scores = graph.input("scores", TensorType::f32([1, 4]));
//! let soft = scores.soft_top_k(1, &SoftTopK::exact(0.1), None); // between 0 and 1, adding up to 1
//! let plan = Device::cpu().compile_blocking(&graph, &[("soft", soft)])?;
//! plan.run(&Feed::new().input("scores", &Tensor::f32([1, 4], vec![0.0, 3.0, 1.0, -2.0])?))?;
//! assert!(plan.read_blocking("soft")?.floats()[1] > 0.99);
//! # Ok(())
//! # }
//! ```

pub mod cumulative_softmax;
pub mod sinkhorn;
pub mod soft_top_k;
