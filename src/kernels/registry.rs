//! Every kernel of the library, for validation without a device and for warm-up.

use super::Kernel;
use crate::ops;

/// All hand-written kernels.
pub static KERNELS: &[&Kernel] = &[
    &ops::argmax::ARGMAX,
    &ops::assign::ASSIGN,
    &ops::copy::COPY,
    &ops::cross_entropy::CROSS_ENTROPY,
    &ops::cross_entropy::CROSS_ENTROPY_GRAD,
    &ops::cumsum::CUMSUM,
    &ops::logsumexp::LOGSUMEXP,
    &ops::matmul::SMALL,
    &ops::matmul::TILED,
    &ops::norm::NORM,
    &ops::norm_grad::NORM_GRAD,
    &ops::norm_grad::NORM_PARAMS,
    &ops::gather::GATHER,
    &ops::random::RANDOM,
    &ops::optim::ACCUMULATE,
    &ops::optim::ADAM,
    &ops::optim::MOMENTUM,
    &ops::optim::PACK,
    &ops::optim::SGD,
    &ops::optim::SQUARE_SUM,
    &ops::optim::TALLY,
    &ops::reduce::REDUCE,
    &ops::rows::RUN_HEADS,
    &ops::rows::RUN_PIECES,
    &ops::rows::RUN_SUMS,
    &ops::rows::ZERO,
    &ops::scan::SCAN,
    &ops::scan::TILE_SUMS,
    &ops::softmax::SOFTMAX,
    &ops::sort::COUNT,
    &ops::sort::PLACE,
];
