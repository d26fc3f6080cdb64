//! Gradient descent on the rows of a table that a gradient touches; all other rows keep every bit.

use super::row_factors::row_factors;
use super::sgd::Sgd;
use super::{Controls, check_rows, flag, scalar, touched};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::ops::runs::{RUNS, RunMeta, RunShape, Runs};
use crate::types::{Operand, Real, TensorType};
use encase::ShaderType;
use std::ops::Range;

/// One element of a hit an invocation.
pub static SGD_ROWS: Kernel = kernel!("optim/sgd_rows");

const WIDTH: usize = 64;

/// The formula of [`Sgd`] on touched rows. Inputs: parameter, with momentum the velocity (flat), the sorted hits, learning
/// rate, squared norm, gate.
#[derive(Clone, Debug)]
struct SgdRows {
    sgd: Sgd,
    hits: RunShape,
}

#[derive(ShaderType)]
struct Meta {
    runs: RunMeta,
    nesterov: u32,
    weight_decay: f32,
    momentum: f32,
}

impl Sgd {
    /// New parameter, and velocity if there is momentum (flat, of one length, a multiple of 4; rows `held` of
    /// the table from element 0 on), with only the rows changed that `grad` names; indices that name no row are
    /// dropped. Velocity decays and weight decay acts only where a row is touched; hits of one row are added up first.
    #[track_caller]
    pub fn step_rows<'g>(
        self,
        param: Var<'g>,
        velocity: Option<Var<'g>>,
        grad: &Rows<'g>,
        held: Range<usize>,
        controls: &Controls<'g>,
    ) -> Vec<Var<'g>> {
        let (c, runs) = (controls, Runs::new(grad).held(held));
        let mut inputs = vec![param];
        inputs.extend(velocity);
        inputs.extend(runs.inputs);
        inputs.extend([c.lr, c.norm_sq, c.ok]);
        param.graph().apply(SgdRows { sgd: self, hits: runs.shape }, &inputs)
    }
}

impl SgdRows {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let first = self.sgd.buffers();
        let at = first + RUNS;
        if flag(call, at + 2) == 0 {
            return;
        }
        let runs = self.hits.view(call, first);
        let factors = self.sgd.factors(scalar(call, at), scalar(call, at + 1));
        let width = runs.width();
        let n = self.hits.rows * width;
        let grad = |hit: usize| {
            let mut grad = vec![T::ZERO; width];
            runs.sum(hit, &mut grad);
            grad
        };
        if first == 1 {
            par::picked(
                [&mut call.take(0)[..n]],
                width,
                runs.keys,
                #[inline(always)]
                |hit, [row]| factors.plain(row, &grad(hit)),
            );
        } else {
            let buffers = [call.take(0), call.take(1)].map(|b| &mut b[..n]);
            par::picked(
                buffers,
                width,
                runs.keys,
                #[inline(always)]
                |hit, rows| factors.heavy(rows, &grad(hit)),
            );
        }
    }
}

impl Op for SgdRows {
    fn name(&self) -> &'static str {
        "sgd_rows"
    }

    fn outputs(&self) -> usize {
        self.sgd.buffers()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        check_rows(inputs, self.sgd.buffers(), 0, self.hits)
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        self.sgd.in_place()
    }

    fn touches(&self, index: usize, inputs: &[Operand]) -> usize {
        touched(index, inputs, self.sgd.buffers(), self.sgd.buffers())
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let first = self.sgd.buffers();
        let updates = row_factors(cx, (first, self.hits.rows), &self.sgd.common, None, None)?;
        // Without momentum the kernel has something else to bind.
        let spare = cx.temp(1);
        let n = RunShape::elements(cx, first);
        let (d, runs) = self.hits.dispatch(cx, &SGD_ROWS, first, true);
        let meta = Meta {
            runs,
            nesterov: u32::from(self.sgd.nesterov),
            weight_decay: self.sgd.common.weight_decay as f32,
            momentum: self.sgd.momentum as f32,
        };
        let d = d.constant("HEAVY", f64::from(u8::from(first == 2))).read(updates).output(0);
        let d = if first == 2 { d.output(1) } else { d.write(spare) };
        d.uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use super::Common;
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    // Length of the buffers, rows, width, hits, momentum.
    let cases = [
        (8, 2, 3, 0, 0.9),
        (4, 1, 1, 1, 0.0),
        (64, 9, 7, 5, 0.9),
        (1_088, 67, 16, 300, 0.0),
        (70_400, 70_001, 1, 70_003, 0.9),
    ];
    for (i, (len, rows, width, hits, momentum)) in cases.into_iter().enumerate() {
        let name = format!("sgd_rows {len} [{rows}, {width}] {hits} {momentum}");
        let sample = Sample::new(name, [&[len], &[len], &[hits, width], &[]], move |g, x| {
            let common = Common { max_norm: 0.7, lr_factor: 0.5, weight_decay: 0.1 };
            let sgd = Sgd { common, momentum, nesterov: i == 4 };
            let controls =
                Controls { lr: x[3], norm_sq: g.full([], 2.0), ok: g.full_u32([], 1), progress: g.full_u32([2], 0) };
            let closed = Controls { ok: g.full_u32([], 0), ..controls };
            let velocity = (momentum > 0.0).then_some(x[1]);
            let mut grad = Rows::new(x[4], x[2], rows);
            if i % 3 == 2 {
                grad.factors = Some(crate::graph::Factors { weights: x[2].slice(1, 0, 1).reshape([hits]), per: 1 });
            }
            let mut all = sgd.clone().step_rows(x[0], velocity, &grad, 0..grad.rows, &controls);
            all.extend(sgd.step_rows(x[0], velocity, &grad, 0..grad.rows, &closed));
            all
        });
        all.push(sample.positive(3).below(&[hits], rows as u32 + 2).no_gradient());
    }
    all
}
