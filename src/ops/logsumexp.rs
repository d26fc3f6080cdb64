//! Logarithm of a sum of exponentials along an axis.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.constant(Tensor::f32([1, 2], vec![1000.0, 1000.0])?);
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", x.logsumexp(1))])?;
//! plan.run(&Feed::new())?;
//! assert!((plan.read_blocking("y")?.floats()[0] - 1000.6931).abs() < 1e-3); // nothing overflows
//! # Ok(())
//! # }
//! ```

use super::softmax::{RowMeta, row_grid};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::{exp_sum, max};
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};

/// One row a workgroup or an invocation.
pub static LOGSUMEXP: Kernel = kernel!("rowwise/logsumexp");

/// `y = max x + ln sum_j exp(x_j - max x)` over the last axis, `[.., n] -> [.., 1]`.
#[derive(Clone, Debug)]
struct LogSumExp;

/// `(max x, sum exp(x - max x))` of a row.
#[inline(always)]
pub(crate) fn top_and_sum<T: Real>(row: &[T]) -> (T, T) {
    let top = max(row);
    let mut block = [T::ZERO; 256];
    let mut total = T::ZERO;
    for part in row.chunks(block.len()) {
        let block = &mut block[..part.len()];
        block.copy_from_slice(part);
        total += exp_sum(block, top);
    }
    (top, total)
}

impl LogSumExp {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (_, n) = call.inputs[0].shape.rows();
        let x = call.f(0);
        par::rows(
            call.out(0),
            1,
            8 * n,
            #[inline(always)]
            |r, y| {
                let row = &x[r * n..(r + 1) * n];
                let (top, total) = top_and_sum(row);
                y[0] = top + total.ln();
            },
        );
    }
}

impl Op for LogSumExp {
    fn name(&self) -> &'static str {
        "logsumexp"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        inputs[0].require(DType::F32, "convert with to_f32")?;
        let mut shape = inputs[0].shape.clone();
        let Some(last) = shape.0.last_mut() else {
            return Refusal::shape("needs at least one dimension");
        };
        if *last == 0 {
            return Refusal::shape("the log-sum-exp of no elements is not finite");
        }
        *last = 1;
        Ok(vec![TensorType::f32(shape)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        // exp(x - lse) would be 1 instead of 1/n where everything is f32::MIN: ln n is lost beside it.
        let x = cx.inputs[0];
        vec![Some((g * x.softmax(x.rank() - 1)).into())]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, n) = cx.inputs[0].shape().rows();
        let meta = RowMeta { rows: rows as u32, n: n as u32, offset: cx.lead(&cx.inputs[0]) as u32 };
        let (lanes, groups) = row_grid(cx, rows, n);
        cx.dispatch(&LOGSUMEXP).constant("LANES", lanes as f64).input(0).output(0).uniform(&meta).workgroups(groups)
    }
}

impl<'g> Var<'g> {
    /// `ln sum exp(x)` along `axis`, which stays with one element: f32 `[.., n, ..]` to `[.., 1, ..]`. The gradient is the softmax, also in rows that are
    /// masked throughout with `f32::MIN` (there 1/n).
    #[track_caller]
    pub fn logsumexp(self, axis: usize) -> Var<'g> {
        let last = self.rank().saturating_sub(1);
        if axis >= last {
            return self.op(LogSumExp, &[]);
        }
        let (a, b) = (axis as isize, last as isize);
        self.transpose(a, b).op(LogSumExp, &[]).transpose(a, b)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(&[usize], usize); 8] = [
        (&[7, 5], 1),
        (&[7, 5], 0),
        (&[5, 3, 4], 1),
        (&[3, 1, 130], 2),
        (&[1], 0),
        (&[0, 4], 1),
        (&[66_000, 2], 1),
        (&[2, 3_001], 1),
    ];
    let mut all: Vec<Sample> = shapes
        .into_iter()
        .map(|(s, axis)| Sample::new(format!("logsumexp {s:?} {axis}"), [s], move |_, x| vec![x[0].logsumexp(axis)]))
        .collect();
    all.push(
        Sample::new("logsumexp of masked entries", [&[4, 6]], |_, x| {
            let masked = x[0].keep_where(x[1], f64::from(f32::MIN));
            vec![masked.logsumexp(1).maximum(-1e3)]
        })
        .below(&[4, 6], 2),
    );
    all.push(
        Sample::new("logsumexp of a masked row", [&[2, 70]], |g, x| {
            // (x - lse) is 0 in f32 where all is masked; the gradient must still sum to 1.
            vec![(x[0] * 0.0 + g.full([2, 70], f64::from(f32::MIN))).logsumexp(1)]
        })
        .no_gradient(),
    );
    all
}
