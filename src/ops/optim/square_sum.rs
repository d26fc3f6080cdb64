//! Sum of squares of a whole tensor in two fixed levels.

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::dot;
use crate::kernels::{Buffer, CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// One piece a workgroup.
pub static SQUARE_SUM: Kernel = kernel!("optim/square_sum");

/// Elements of one piece.
const PIECE: usize = 4096;

/// `Σ x²` over all elements.
#[derive(Clone, Debug)]
struct SquareSum;

#[derive(ShaderType)]
struct Meta {
    n: u32,
    piece: u32,
    pieces: u32,
    square: u32,
}

impl SquareSum {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let x = call.f(0);
        let mut partial = vec![T::ZERO; x.len().div_ceil(PIECE)];
        par::rows(
            &mut partial,
            1,
            PIECE,
            #[inline(always)]
            |i, y| {
                let x = &x[i * PIECE..((i + 1) * PIECE).min(x.len())];
                y[0] = dot(x, x);
            },
        );
        call.out(0).fill(partial.into_iter().sum());
    }
}

impl Op for SquareSum {
    fn name(&self) -> &'static str {
        "square_sum"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        inputs[0].require(DType::F32, "convert with to_f32")?;
        Ok(vec![TensorType::f32([])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.dense([cx.cotangent().map(|g| cx.inputs[0] * g * 2.0)])
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.inputs[0].numel();
        let pieces = n.div_ceil(PIECE).max(1);
        let meta = Meta { n: n as u32, piece: PIECE as u32, pieces: pieces as u32, square: 1 };
        if pieces == 1 {
            return cx.dispatch(&SQUARE_SUM).input(0).output(0).uniform(&meta).workgroups(1);
        }
        let partial = cx.temp(pieces);
        cx.dispatch(&SQUARE_SUM).input(0).write(partial).uniform(&meta).workgroups(pieces)?;
        sum_pieces(cx, partial, pieces)
    }
}

/// Adds `n` partial sums up into output 0.
pub(crate) fn sum_pieces(cx: &mut Lower<'_>, partial: Buffer, n: usize) -> Result<()> {
    let meta = Meta { n: n as u32, piece: n as u32, pieces: 1, square: 0 };
    cx.dispatch(&SQUARE_SUM).read(partial).output(0).uniform(&meta).workgroups(1)
}

impl<'g> Var<'g> {
    /// Sum of the squares of all elements, a scalar `[]`: without a temporary for the squares.
    #[track_caller]
    pub fn square_sum(self) -> Var<'g> {
        self.op(SquareSum, &[])
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    [&[0usize][..], &[1], &[], &[3, 67], &[8_191], &[5, 70_001]]
        .into_iter()
        .map(|s| Sample::new(format!("square_sum {s:?}"), [s], |_, x| vec![x[0].square_sum()]))
        .collect()
}
