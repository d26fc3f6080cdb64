//! The coordinate descent as one scalar recurrence per row.
//!
//! The dual step `b = -max(s + a, 0)` gives `s + b = min(s, -a)`, so the whole state of a row is the scalar `a`:
//! `a_t = e_t (ln k - logsumexp(min(s, -a_{t-1}) / e_t))`, and the result is `exp(min(s + a_T, 0) / e_{T+1})`.
//!
//! The exponentials `exp((s - c) / e)` around some `c` serve all iterations of one epsilon whose level `-a` is not far from
//! `c`: what an iteration sums is the lesser of each and the level's own. They lie where the result will.

use super::grad::DescentGrad;
use super::powers::Powers;
use super::rows::{Rows, SMALLEST, bounded, infer, lesser, like_counts, per_row};
use super::{Start, composed, long};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::max;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::ops::softmax::row_grid;
use crate::types::{Real, Tensor, TensorType};
use encase::ShaderType;

/// All iterations of a row by one workgroup or invocation.
pub static DESCENT: Kernel = kernel!("route/descent");

/// Inputs scores `[.., n]`, counts `[..]` or `[]`, epsilons `[T + 1]` and, if masked, the mask `[.., n]`; outputs the result
/// and the trace `[.., 2 T]`: all `a_t`, then all `c_t`, the number of scores above `-a_{t-1}`.
#[derive(Clone, Debug)]
pub struct Descent {
    pub schedule: Vec<f32>,
    pub start: Start,
    pub masked: bool,
}

/// Shape of the rows and how they are read.
#[derive(ShaderType)]
pub struct Meta {
    pub rows: u32,
    pub n: u32,
    pub iterations: u32,
    pub relu: u32,
    pub masked: u32,
    pub counts: u32,
    /// First of the iterations with the last epsilon.
    pub tail: u32,
}

pub fn apply<'g>(s: Var<'g>, k: Var<'g>, schedule: Vec<f32>, start: Start, mask: Option<Var<'g>>) -> Var<'g> {
    let epsilons = Tensor::f32([schedule.len()], schedule.clone());
    let epsilons = match epsilons {
        Ok(t) => s.graph().constant(t),
        Err(e) => {
            s.graph().fail(e);
            return s;
        }
    };
    let op = Descent { schedule, start, masked: mask.is_some() };
    let others: Vec<Var<'g>> = [k, epsilons].into_iter().chain(mask).collect();
    s.op(op, &others)
}

impl Descent {
    /// Number of iterations.
    pub fn iterations(&self) -> usize {
        self.schedule.len() - 1
    }

    /// Uniform of the kernels.
    pub fn meta(&self, rows: usize, n: usize, counts: usize) -> Meta {
        Meta {
            rows: rows as u32,
            n: n as u32,
            iterations: self.iterations() as u32,
            relu: u32::from(self.start == Start::Relu),
            masked: u32::from(self.masked),
            counts: u32::from(counts > 1),
            tail: self.tail() as u32,
        }
    }

    /// The first iteration that looks at the scores.
    pub fn first(&self) -> usize {
        usize::from(self.start == Start::Scores)
    }

    /// The first of the iterations at the end that look at the scores and have one epsilon.
    pub fn tail(&self) -> usize {
        let epsilons = &self.schedule[..self.iterations()];
        let alike = epsilons.iter().rev().take_while(|e| Some(*e) == epsilons.last()).count();
        (epsilons.len() - alike).max(self.first())
    }

    /// The recurrence over the valid scores of a row; fills the trace. `powers` is as long as the scores.
    #[inline(always)]
    fn solve<T: Real>(&self, scores: &[T], k: T, powers: &mut [T], trace: &mut [T]) -> T {
        let (a_trace, c_trace) = trace.split_at_mut(self.iterations());
        let log_k = k.max(T::of(SMALLEST)).ln();
        let top = max(scores);
        let mut a = T::ZERO;
        if scores.is_empty() {
            trace.fill(T::ZERO);
            return a;
        }
        let mut powers = Powers::new(scores, powers);
        let (mut clipped, mut settled) = (T::ZERO, false);
        for (t, e) in self.schedule[..self.iterations()].iter().enumerate() {
            let same = self.schedule[t + 1] == *e;
            let e = T::of(f64::from(*e));
            if t < self.first() {
                a = e * (log_k - T::of(scores.len() as f64).ln());
            } else if !settled {
                let sum = powers.sum_below(top.min(-a), e);
                let next = e * (log_k - sum.total.ln()) - sum.center;
                // What comes back to where it was stays there.
                settled = same && next == a;
                (a, clipped) = (next, sum.clipped);
            }
            a_trace[t] = a;
            c_trace[t] = clipped;
        }
        a
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let input = Rows::new(call, 1, self.masked.then_some(3));
        let (y, trace) = (call.take(0), call.take(1));
        let (width, grain) = (2 * self.iterations(), input.grain(self.iterations()));
        let e = T::of(f64::from(self.schedule[self.iterations()]));
        par::ragged_pair(
            (y, input.n),
            (trace, width),
            input.rows,
            grain,
            #[inline(always)]
            |_, piece, y, trace| {
                for (i, trace) in trace.chunks_mut(width).enumerate() {
                    let row = piece * grain + i;
                    let k = input.k(row);
                    let (valid, y) = (input.valid(row), &mut y[i * input.n..(i + 1) * input.n]);
                    let a = self.solve(&valid, k, &mut y[..valid.len()], trace);
                    input.write(row, y, |s| lesser(s + a, T::ZERO) / e);
                    let wanted = k > T::ZERO;
                    if !wanted {
                        y.fill(T::ZERO);
                    }
                }
            },
        );
    }
}

impl Op for Descent {
    fn name(&self) -> &'static str {
        "soft_top_k"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (y, rows) = infer(&inputs[0], &inputs[1], inputs.get(3))?;
        Ok(vec![y, per_row(&rows, 2 * self.iterations())])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let (s, k, epsilons) = (cx.inputs[0], cx.inputs[1], cx.inputs[2]);
        let (y, trace) = (cx.outputs[0], cx.outputs[1]);
        let last = s.rank() - 1;
        let end = self.iterations();
        // What reaches the scores from the result alone; entries above the last dual variable are clipped.
        let a = trace.slice(last, end - 1, 1);
        let e = epsilons.slice(0, end, 1);
        let u = bounded(s).gt(-a).select(0.0, g * y / e);
        let mut inputs = vec![s, k, epsilons, trace, u, u.sum(last), g];
        inputs.extend(cx.inputs.get(3));
        let grads = cx.graph.apply(DescentGrad(self.clone()), &inputs);
        let mut all = cx.dense([Some(grads[0]), Some(like_counts(grads[1], k))]);
        all.resize_with(cx.inputs.len(), || None);
        all
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, n) = cx.inputs[0].shape().rows();
        if let Some(pieces) = long::cut(rows, n) {
            return self.lower_long(cx, &pieces);
        }
        let (lanes, groups) = row_grid(cx, rows, n);
        let meta = self.meta(rows, n, cx.inputs[1].numel());
        cx.dispatch(&DESCENT)
            .constant("LANES", lanes as f64)
            .input(0)
            .input(if self.masked { 3 } else { 0 })
            .input(1)
            .input(2)
            .output(0)
            .output(1)
            .uniform(&meta)
            .workgroups(groups)
    }
}

impl Descent {
    /// The same from elementary operations.
    pub fn composed<'g>(&self, s: Var<'g>, k: Var<'g>, mask: Option<Var<'g>>) -> Var<'g> {
        composed::unrolled(s, k, mask, &self.schedule, self.start)
    }
}
