//! Every kernel of the library, for validation without a device and for warm-up.

use super::Kernel;
use crate::ops;

/// All hand-written kernels.
pub static KERNELS: &[&Kernel] = &[
    &ops::assign::ASSIGN,
    &ops::attention::FORWARD,
    &ops::attention::backward::DELTA,
    &ops::attention::backward::BACKWARD,
    &ops::cache::WRITE_ROWS,
    &ops::cache::TAKE_ROWS,
    &ops::copy::COPY,
    &ops::matmul::SMALL,
    &ops::matmul::TILED,
    &ops::reduce::REDUCE,
    &ops::rotary::ROTARY,
    &ops::softmax::SOFTMAX,
];
