//! Gradients against central differences: whether a function built from a graph, or an operation of one's own, has the
//! gradient it claims to have.
//!
//! ```
//! use wgrad::check::{GradCheck, gradcheck_blocking};
//! use wgrad::{Device, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let device = Device::cpu_f64(); // in double precision differences are sharp
//! let x = Tensor::f32([3], vec![0.5, -1.0, 2.0])?;
//! let check = || GradCheck::of(&device);
//! assert!(gradcheck_blocking(&device, check(), &[x.clone()], |_, x| vec![x[0].tanh() * x[0]])? < 1e-5);
//!
//! // A gradient that is not that of the function is an error, with both values.
//! let wrong = gradcheck_blocking(&device, check(), &[x], |_, x| vec![x[0].square().straight_through(x[0])]);
//! assert!(wrong.unwrap_err().to_string().contains("by differences"));
//! # Ok(())
//! # }
//! ```

mod gradcheck;
#[cfg(feature = "oracle")]
#[doc(hidden)]
pub mod sample;

#[cfg(not(target_arch = "wasm32"))]
pub use gradcheck::gradcheck_blocking;
pub use gradcheck::{GradCheck, gradcheck};
