//! Operations, one file each: what it computes, shapes, gradient, kernels and CPU twin.
//!
//! They are methods of [`Var`](crate::Var) and [`Graph`](crate::Graph); the modules document shapes and sources, and hold what has
//! options.
//!
//! They return no `Result`. What does not fit is refused at once, and the first refusal is kept in the graph, with operation,
//! shapes and the caller's line: [`Error::Shape`](crate::Error::Shape), [`Error::Dtype`](crate::Error::Dtype),
//! [`Error::Argument`](crate::Error::Argument), [`Error::Limit`](crate::Error::Limit) or [`Error::Name`](crate::Error::Name).
//! Everything that follows does nothing; compiling returns the error, and [`Graph::error`](crate::Graph::error) shows it before.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let table = graph.input("table", TensorType::f32([4, 2]));
//! let ids = graph.input("ids", TensorType::u32([3]));
//! let rows = table.gather(ids); // [3, 2]
//! let plan = Device::cpu().compile_blocking(&graph, &[("rows", rows)])?;
//! let (table, ids) = (Tensor::f32([4, 2], (0..8).map(|i| i as f32).collect())?, Tensor::u32([3], vec![3, 0, 3])?);
//! plan.run(&Feed::new().input("table", &table).input("ids", &ids))?;
//! assert_eq!(plan.read_blocking("rows")?.floats(), [6.0, 7.0, 0.0, 1.0, 6.0, 7.0]);
//! # Ok(())
//! # }
//! ```

pub mod argmax;
pub(crate) mod assign;
pub mod attention;
pub mod bank;
pub mod cache;
pub mod copy;
pub mod cross_entropy;
pub mod cumsum;
pub mod custom;
pub mod einsum;
pub mod elementwise;
pub mod gather;
pub mod logsumexp;
pub mod matmul;
pub mod memory;
pub mod norm;
pub(crate) mod norm_grad;
pub mod optim;
pub mod random;
pub mod reduce;
mod registry;
pub mod rotary;
pub mod route;
pub mod rows;
pub(crate) mod runs;
#[doc(hidden)]
pub mod samples;
pub(crate) mod scan;
pub mod select;
pub mod softmax;
pub mod sort;
pub mod view;

/// What `cargo xtask new-op` begins an operation with. Nothing of the library: only the unit tests compile and check it.
#[cfg(test)]
mod new_op;

pub use registry::KERNELS;

#[cfg(test)]
mod tests {
    use crate::check::sample::{against_oracle, gradient};
    use crate::plan::Options;
    use crate::{Device, GpuOptions};

    /// An operation as it is begun passes the checks of a finished one; on an adapter too where there is any.
    #[test]
    fn a_new_operation_passes() {
        let adapter = std::env::var("WGRAD_TEST_ADAPTER").ok();
        let gpu = Device::gpu_blocking(GpuOptions { adapter, software: true, ..Default::default() });
        let devices: Vec<Device> = gpu.into_iter().chain([Device::cpu()]).collect();
        let samples = super::new_op::samples();
        assert!(samples.len() >= 5);
        for sample in &samples {
            for device in &devices {
                pollster::block_on(against_oracle(sample, device, Options::default())).expect("the oracle's results");
            }
            pollster::block_on(gradient(sample)).expect("the gradient of differences");
        }
        let text = super::new_op::NEW_OP.text().expect("its includes");
        naga::front::wgsl::parse_str(&text).expect("sound WGSL");
    }
}
