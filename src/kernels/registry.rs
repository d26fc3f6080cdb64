//! Every kernel of the library, for validation without a device and for warm-up.

use super::Kernel;
use crate::ops;

/// All hand-written kernels.
pub static KERNELS: &[&Kernel] = &[
    &ops::assign::ASSIGN,
    &ops::copy::COPY,
    &ops::matmul::SMALL,
    &ops::matmul::TILED,
    &ops::optim::ACCUMULATE,
    &ops::optim::ADAM,
    &ops::optim::MOMENTUM,
    &ops::optim::PACK,
    &ops::optim::SGD,
    &ops::optim::SQUARE_SUM,
    &ops::optim::TALLY,
    &ops::reduce::REDUCE,
    &ops::softmax::SOFTMAX,
];
