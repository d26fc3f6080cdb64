//! Adam and AdamW on the rows of a table that a gradient touches; all other rows of parameter and moments keep every bit.

use super::adam::{Adam, ln};
use super::{Controls, check_rows, flag, numbered_from, scalar};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;
use std::ops::Range;

/// Number of the step and its factors, one hit an invocation.
pub static ROW_FACTORS: Kernel = kernel!("optim/row_factors");
/// One element of a hit an invocation.
pub static ADAM_ROWS: Kernel = kernel!("optim/adam_rows");

const WIDTH: usize = 64;

/// The formula of [`Adam`] on touched rows. Inputs: parameter, two moments (flat), with `counted` the touches of every
/// row so far (u32 `[rows]`), united indices and values, learning rate, squared norm, gate, progress.
#[derive(Clone, Debug)]
struct AdamRows {
    adam: Adam,
    rows: usize,
    counted: bool,
}

#[derive(ShaderType)]
struct Hits {
    n: u32,
    rows: u32,
    max_norm: f32,
    lr_factor: f32,
    ln_beta1: f32,
    ln_beta2: f32,
}

#[derive(ShaderType)]
struct Meta {
    n: u32,
    rows: u32,
    width: u32,
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
    /// new `counts`, with only the rows changed that `grad` names; indices that name none of them are dropped. A row
    /// named with a gradient of 0 counts as touched; hits of one row are added up first.
    ///
    /// With `counts` (u32: touches of each of these rows so far) the bias correction of a row counts its own touches: each
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
        let (c, united) = (controls, grad.unite());
        let indices = numbered_from(held.start, united.indices);
        let mut inputs = vec![param];
        inputs.extend(moments);
        inputs.extend(counts);
        inputs.extend([indices, united.values, c.lr, c.norm_sq, c.ok, c.progress]);
        let op = AdamRows { adam: self, rows: held.len(), counted: counts.is_some() };
        param.graph().apply(op, &inputs)
    }
}

impl AdamRows {
    /// Number of buffers that are updated; the other inputs follow.
    fn buffers(&self) -> usize {
        if self.counted { 4 } else { 3 }
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let at = self.buffers();
        if flag(call, at + 4) == 0 {
            return;
        }
        let (indices, values) = (call.u(at), call.f(at + 1));
        let (lr, norm_sq, done) = (scalar(call, at + 2), scalar(call, at + 3), flag(call, at + 5));
        let width = call.inputs[at + 1].shape[1];
        let counts: &mut [u32] = if self.counted { call.take_u(3) } else { &mut [] };
        let mut number = |row: u32| {
            counts.get_mut(row as usize).map_or(done.wrapping_add(1), |c| {
                *c = c.wrapping_add(1);
                *c
            })
        };
        let numbers: Vec<u32> = indices.iter().map(|row| number(*row)).collect();
        let n = self.rows * width;
        let buffers = [call.take(0), call.take(1), call.take(2)].map(|b| &mut b[..n]);
        par::picked(buffers, width, indices, |hit, rows| {
            let factors = self.adam.factors(f64::from(numbers[hit]), lr, norm_sq);
            factors.update(rows, &values[hit * width..]);
        });
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
        let mut out = check_rows(inputs, 3, usize::from(self.counted), self.rows)?;
        if self.counted {
            let counts = TensorType { dtype: DType::U32, shape: [self.rows].into() };
            if inputs[3] != counts {
                return Refusal::shape(format!("the touches of each row are {counts}"));
            }
            out.push(counts);
        }
        if inputs.get(self.buffers() + 5) != Some(&TensorType::u32([2])) {
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

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let at = self.buffers();
        let [n, width] = [cx.inputs[at + 1].shape()[0], cx.inputs[at + 1].shape()[1]];
        let (adam, common) = (&self.adam, &self.adam.common);
        let hits = Hits {
            n: n as u32,
            rows: self.rows as u32,
            max_norm: common.max_norm as f32,
            lr_factor: common.lr_factor as f32,
            ln_beta1: ln(adam.beta1) as f32,
            ln_beta2: ln(adam.beta2) as f32,
        };
        let meta = Meta {
            n: n as u32,
            rows: self.rows as u32,
            width: width as u32,
            decoupled: u32::from(adam.decoupled),
            weight_decay: common.weight_decay as f32,
            beta1: adam.beta1 as f32,
            beta2: adam.beta2 as f32,
            one_minus_beta1: (1.0 - adam.beta1) as f32,
            one_minus_beta2: (1.0 - adam.beta2) as f32,
            eps: adam.eps as f32,
        };
        let factors = cx.temp(4 * n.max(1));
        // Where rows are not counted the kernel has something else to bind.
        let spare = cx.temp(1);
        let mut d = cx.dispatch(&ROW_FACTORS).constant("COUNTED", f64::from(u8::from(self.counted)));
        for input in [at, at + 2, at + 3, at + 4, at + 5] {
            d = d.input(input);
        }
        d = if self.counted { d.output(3) } else { d.write(spare) };
        d.write(factors).uniform(&hits).workgroups(n.div_ceil(WIDTH))?;
        let d = cx.dispatch(&ADAM_ROWS).input(at).input(at + 1).input(at + 4).read(factors);
        d.output(0).output(1).output(2).uniform(&meta).workgroups((n * width).div_ceil(WIDTH))
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
            let grad = Rows { indices: x[5], values: x[3], rows };
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
