//! Every kernel of the library, for validation without a device and for warm-up.

use super::Kernel;
use crate::ops;

/// All hand-written kernels.
pub static KERNELS: &[&Kernel] = &[
    &ops::assign::ASSIGN,
    &ops::copy::COPY,
    &ops::gather::GATHER,
    &ops::matmul::SMALL,
    &ops::matmul::TILED,
    &ops::random::RANDOM,
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
