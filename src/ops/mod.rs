//! Operations, one file each: what it computes, shapes, gradient, kernels and CPU twin.

pub mod assign;
#[doc(hidden)]
pub mod check;
pub mod copy;
pub mod elementwise;
pub mod matmul;
pub mod optim;
pub mod reduce;
pub mod rows;
#[doc(hidden)]
pub mod samples;
pub mod softmax;
pub mod view;
