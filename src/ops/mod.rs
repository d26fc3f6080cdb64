//! Operations, one file each: what it computes, shapes, gradient, kernels and CPU twin.

pub mod argmax;
pub mod assign;
pub mod attention;
pub mod bank;
pub mod cache;
#[cfg(feature = "oracle")]
#[doc(hidden)]
pub mod check;
pub mod copy;
pub mod cross_entropy;
pub mod cumsum;
pub mod custom;
pub mod einsum;
pub mod elementwise;
pub mod gather;
pub mod gradcheck;
pub mod logsumexp;
pub mod matmul;
pub mod memory;
pub mod norm;
pub(crate) mod norm_grad;
pub mod optim;
pub mod random;
pub mod reduce;
pub mod rotary;
pub mod route;
pub mod rows;
pub(crate) mod runs;
#[doc(hidden)]
pub mod samples;
pub mod scan;
pub mod select;
pub mod softmax;
pub mod sort;
pub mod view;
