//! Operations, one file each: what it computes, shapes, gradient, kernels and CPU twin.

pub mod assign;
pub mod attention;
pub mod cache;
#[doc(hidden)]
pub mod check;
pub mod copy;
pub mod elementwise;
pub mod matmul;
pub mod reduce;
pub mod rotary;
pub mod rows;
#[doc(hidden)]
pub mod samples;
pub mod softmax;
pub mod view;
