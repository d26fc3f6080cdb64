//! Adam and AdamW on the rows of a table that a gradient touches; all other rows of parameter and moments keep every bit.

use super::adam::{Adam, ln};
use super::row_factors::row_factors;
use super::{Controls, check_rows, flag, scalar, touched};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::ops::runs::{RUNS, RunMeta, RunShape, Runs};
use crate::types::{DType, Operand, Real, TensorType};
use encase::ShaderType;
use std::ops::Range;

/// One element of a hit an invocation.
pub static ADAM_ROWS: Kernel = kernel!("optim/adam_rows");

const WIDTH: usize = 64;

/// The formula of [`Adam`] on touched rows. Inputs: parameter, two moments (flat), with `counted` the touches of every
/// row so far (u32 `[rows]`), the sorted hits, learning rate, squared norm, gate, progress.
#[derive(Clone, Debug)]
struct AdamRows {
    adam: Adam,
    hits: RunShape,
    counted: bool,
}

#[derive(ShaderType)]
struct Meta {
    runs: RunMeta,
    decoupled: u32,
    weight_decay: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    eps: f32,
}

impl Adam {
    /// New parameter and moments (flat, of one length, a multiple of 4; rows `held` of the table from element 0 on) and
    /// new `counts`, with only the rows changed that `grad` names; indices that name no row are dropped. A row named
    /// with a gradient of 0 counts as touched; hits of one row are added up first.
    ///
    /// With `counts` (u32 `[rows]`: touches of each row so far) the bias correction of a row counts its own touches: each
    /// row is a parameter of its own whose gradient is missing at other steps. Without, it counts the steps done.
    #[track_caller]
    pub fn step_rows<'g>(
        self,
        param: Var<'g>,
        moments: [Var<'g>; 2],
        counts: Option<Var<'g>>,
        grad: &Rows<'g>,
        held: Range<usize>,
        controls: &Controls<'g>,
    ) -> Vec<Var<'g>> {
        let (c, runs) = (controls, Runs::new(grad).held(held));
        let mut inputs = vec![param];
        inputs.extend(moments);
        inputs.extend(counts);
        inputs.extend(runs.inputs);
        inputs.extend([c.lr, c.norm_sq, c.ok, c.progress]);
        let op = AdamRows { adam: self, hits: runs.shape, counted: counts.is_some() };
        param.graph().apply(op, &inputs)
    }
}

impl AdamRows {
    /// Number of buffers that are updated; the other inputs follow.
    fn buffers(&self) -> usize {
        if self.counted { 4 } else { 3 }
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let first = self.buffers();
        let at = first + RUNS;
        if flag(call, at + 2) == 0 {
            return;
        }
        let runs = self.hits.view(call, first);
        let (lr, norm_sq, done) = (scalar(call, at), scalar(call, at + 1), flag(call, at + 3));
        let counts: &mut [u32] = if self.counted { call.take_u(3) } else { &mut [] };
        let mut number = |(key, end): (&u32, &u32)| match counts.get_mut(*key as usize).filter(|_| *end > 0) {
            Some(count) => {
                *count = count.wrapping_add(1);
                *count
            }
            None => done.wrapping_add(1),
        };
        let numbers: Vec<u32> = runs.keys.iter().zip(runs.ends).map(&mut number).collect();
        let width = runs.width();
        let buffers = [call.take(0), call.take(1), call.take(2)].map(|b| &mut b[..self.hits.rows * width]);
        par::picked(
            buffers,
            width,
            runs.keys,
            #[inline(always)]
            |hit, rows| {
                let mut grad = vec![T::ZERO; width];
                runs.sum(hit, &mut grad);
                self.adam.factors(f64::from(numbers[hit]), lr, norm_sq).update(rows, &grad);
            },
        );
    }
}

impl Op for AdamRows {
    fn name(&self) -> &'static str {
        if self.adam.decoupled { "adamw_rows" } else { "adam_rows" }
    }

    fn outputs(&self) -> usize {
        self.buffers()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let mut out = check_rows(inputs, 3, usize::from(self.counted), self.hits)?;
        if self.counted {
            let counts = TensorType { dtype: DType::U32, shape: [self.hits.rows].into() };
            if inputs[3] != counts {
                return Refusal::shape(format!("the touches of each row are {counts}"));
            }
            out.push(counts);
        }
        if inputs.get(self.buffers() + RUNS + 3) != Some(&TensorType::u32([2])) {
            return Refusal::shape("the counts of steps done and skipped are u32[2]");
        }
        Ok(out)
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        let all = &[(0, 0), (1, 1), (2, 2), (3, 3)];
        &all[..self.buffers()]
    }

    fn touches(&self, index: usize, inputs: &[Operand]) -> usize {
        touched(index, inputs, self.buffers(), self.buffers())
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let first = self.buffers();
        let (adam, common) = (&self.adam, &self.adam.common);
        let ln_betas = [ln(adam.beta1), ln(adam.beta2)];
        let updates = row_factors(cx, (first, self.hits.rows), common, Some(ln_betas), self.counted.then_some(3))?;
        let n = RunShape::elements(cx, first);
        let (d, runs) = self.hits.dispatch(cx, &ADAM_ROWS, first, true);
        let meta = Meta {
            runs,
            decoupled: u32::from(adam.decoupled),
            weight_decay: common.weight_decay as f32,
            beta1: adam.beta1 as f32,
            beta2: adam.beta2 as f32,
            one_minus_beta1: (1.0 - adam.beta1) as f32,
            one_minus_beta2: (1.0 - adam.beta2) as f32,
            eps: adam.eps as f32,
        };
        d.read(updates).output(0).output(1).output(2).uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use super::Common;
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    // Length of the buffers, rows, width, hits.
    let cases = [
        (8, 2, 3, 0),
        (4, 1, 1, 1),
        (64, 9, 7, 5),
        (1_088, 67, 16, 300),
        (70_400, 70_001, 1, 70_003),
        (66_048, 3, 22_000, 7),
    ];
    for (i, (len, rows, width, hits)) in cases.into_iter().enumerate() {
        let decoupled = i % 2 == 1;
        let name = format!("adam_rows {len} [{rows}, {width}] {hits} {decoupled}");
        let sample = Sample::new(name, [&[len], &[len], &[len], &[hits, width], &[]], move |g, x| {
            let common = Common { max_norm: 0.7, lr_factor: 0.5, weight_decay: 0.1 };
            let adam = Adam { common, decoupled, beta1: 0.9, beta2: 0.999, eps: 1e-3 };
            let controls = Controls { lr: x[4], norm_sq: g.full([], 2.0), ok: g.full_u32([], 1), progress: x[7] };
            let closed = Controls { ok: g.full_u32([], 0), ..controls };
            let mut grad = Rows::new(x[5], x[3], rows);
            if i % 3 == 2 {
                grad.factors = Some(crate::graph::Factors { weights: x[3].slice(1, 0, 1).reshape([hits]), per: 1 });
            }
            let moments = [x[1], x[2].square()];
            let mut all = adam.clone().step_rows(x[0], moments, Some(x[6]), &grad, 0..grad.rows, &controls);
            all.extend(adam.clone().step_rows(x[0], moments, None, &grad, 0..grad.rows, &controls));
            all.extend(adam.step_rows(x[0], moments, Some(x[6]), &grad, 0..grad.rows, &closed));
            all
        });
        let sample = sample.positive(4).below(&[hits], rows as u32 + 2).below(&[rows], 50).below(&[2], 1000);
        all.push(sample.no_gradient());
    }
    all
}
