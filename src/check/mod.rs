//! Gradients against central differences: whether a function built from a graph, or an operation of one's own, has the
//! gradient it claims to have.

mod gradcheck;
#[cfg(feature = "oracle")]
#[doc(hidden)]
pub mod sample;

#[cfg(not(target_arch = "wasm32"))]
pub use gradcheck::gradcheck_blocking;
pub use gradcheck::{GradCheck, gradcheck};
