//! Product-key memory (Lample et al. 2019, arXiv 1907.05242): choosing among pairs of keys, and weighted sums of the rows
//! of large tables, whole, in pieces or quantised.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let table = graph.input("table", TensorType::f32([3, 2]));
//! let slots = graph.input("slots", TensorType::u32([1, 2]));
//! let weights = graph.input("weights", TensorType::f32([1, 2]));
//! let sum = table.weighted_gather(slots, weights); // [1, 2]: no row is copied on the way
//! let plan = Device::cpu().compile_blocking(&graph, &[("sum", sum)])?;
//! let table = Tensor::f32([3, 2], vec![1.0, 2.0, 10.0, 20.0, 100.0, 200.0])?;
//! let (slots, weights) = (Tensor::u32([1, 2], vec![2, 0])?, Tensor::f32([1, 2], vec![0.5, 3.0])?);
//! plan.run(&Feed::new().input("table", &table).input("slots", &slots).input("weights", &weights))?;
//! assert_eq!(plan.read_blocking("sum")?.floats(), [53.0, 106.0]);
//! # Ok(())
//! # }
//! ```

pub(crate) mod gather_dot;
pub(crate) mod product_pairs;
pub mod product_top_k;
pub(crate) mod table;
pub mod tally_rows;
pub mod weighted_gather;

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    [gather_dot::samples, product_pairs::samples, product_top_k::samples, weighted_gather::samples, tally_rows::samples]
        .into_iter()
        .flat_map(|f| f())
        .collect()
}
