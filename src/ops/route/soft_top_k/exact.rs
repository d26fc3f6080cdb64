//! The fixed point of the coordinate descent by its active set.
//!
//! `h(a) = sum_j exp(min(s_j + a, 0) / e) = k` has one solution for `0 < k < n`. For a set C of fewer than k clipped entries
//! let `a_C = e (ln(k - |C|) - logsumexp_{not C}(s / e))`; then `a_C` is never above the solution, and equal to it for the set
//! that it clips itself. So `C <- {s + a_C > 0}` only grows after its first step, and ends at the solution. `a` is kept as the
//! pair (p, d), a = d - p with p one of the scores: as one number it would lose what little the scores differ by.

use super::long;
use super::rows::{Rows, bounded, exp_total, infer, lesser, like_counts, per_row};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::ops::softmax::row_grid;
use crate::types::{Real, TensorType};
use encase::ShaderType;

/// A row by one workgroup or invocation.
pub static EXACT: Kernel = kernel!("route/exact");

/// Steps that the active set may take; eight were the most that adversarial rows needed. Cut off, the result would still be
/// a lower bound of the solution.
const PASSES: usize = 40;
/// Offset of rows whose entries are all clipped (`s + d > 0` for all scores) or all 0.
const ALL: f64 = 1.6e38;

/// Inputs scores `[.., n]`, counts `[..]` or `[]` and, if masked, the mask `[.., n]`; outputs the result and the pairs (p, d),
/// `[.., 2]`.
#[derive(Clone, Debug)]
pub struct Exact {
    pub eps: f32,
    pub masked: bool,
}

#[derive(ShaderType)]
struct Meta {
    rows: u32,
    n: u32,
    masked: u32,
    counts: u32,
    passes: u32,
    e: f32,
}

pub fn apply<'g>(s: Var<'g>, k: Var<'g>, eps: f64, mask: Option<Var<'g>>) -> Var<'g> {
    let op = Exact { eps: eps as f32, masked: mask.is_some() };
    let others: Vec<Var<'g>> = std::iter::once(k).chain(mask).collect();
    s.op(op, &others)
}

/// The pair (p, d) of valid scores with a count inside (0, number of scores). Reorders the scores.
#[inline(always)]
fn solve<T: Real>(scores: &mut [T], k: T, e: T) -> (T, T) {
    let rank = (k.f64().ceil() as usize).clamp(1, scores.len()) - 1;
    let descending = |a: &T, b: &T| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal);
    let p = *scores.select_nth_unstable_by(rank, descending).1;
    let (mut d, mut clipped) = (T::ZERO, T::ZERO);
    for pass in 0..PASSES {
        let (total, now) = exp_total(scores, |s| {
            let x = s - p;
            let above = x + d > T::ZERO;
            (if above { T::LOWEST } else { x / e }, above)
        });
        if (pass > 0 && now == clipped) || (pass > 1 && now < clipped) || now >= k {
            break;
        }
        clipped = now;
        d = e * ((k - now).ln() - total.ln());
    }
    (p, d)
}

impl Exact {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let input = Rows::new(call, 1, self.masked.then_some(2));
        let (y, pairs) = (call.take(0), call.take(1));
        let (e, grain) = (T::of(f64::from(self.eps)), input.grain(8));
        par::ragged_pair(
            (y, input.n),
            (pairs, 2),
            input.rows,
            grain,
            #[inline(always)]
            |_, piece, y, pairs| {
                for (i, pair) in pairs.chunks_mut(2).enumerate() {
                    let row = piece * grain + i;
                    let (k, mut scores) = (input.k(row), input.valid(row));
                    let open = k > T::ZERO && k < T::of(scores.len() as f64);
                    let (p, d) = if open { solve(&mut scores, k, e) } else { (T::ZERO, T::of(ALL)) };
                    (pair[0], pair[1]) = (p, d);
                    let y = &mut y[i * input.n..(i + 1) * input.n];
                    input.write(row, y, |s| lesser((s - p) + d, T::ZERO) / e);
                    let wanted = k > T::ZERO;
                    if !wanted {
                        y.fill(T::ZERO);
                    }
                }
            },
        );
    }
}

impl Op for Exact {
    fn name(&self) -> &'static str {
        "soft_top_k_exact"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (y, rows) = infer(&inputs[0], &inputs[1], inputs.get(2))?;
        Ok(vec![y, per_row(&rows, 2)])
    }

    /// Over the free entries, with `A` the mean of g weighted by y: `ds = y (g - A) / e` and `dk = A`.
    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let (s, k, y, pair) = (cx.inputs[0], cx.inputs[1], cx.outputs[0], cx.outputs[1]);
        let last = s.rank() - 1;
        let (p, d) = (pair.slice(last, 0, 1), pair.slice(last, 1, 1));
        let clipped = ((bounded(s) - p) + d).gt(0.0);
        let free = clipped.select(0.0, y);
        // Both sums from y, so that they share its rounding. Without free entries the mean is 0.
        let total = free.sum(last);
        let mean = total.gt(0.0).select((g * free).sum(last) / total.maximum(f64::from(f32::MIN_POSITIVE)), 0.0);
        let ds = free * (g - mean) / f64::from(self.eps);
        let dk = like_counts(mean.reshape(&s.shape()[..last]), k);
        let mut all = cx.dense([Some(ds), Some(dk)]);
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
        let meta = Meta {
            rows: rows as u32,
            n: n as u32,
            masked: u32::from(self.masked),
            counts: u32::from(cx.inputs[1].numel() > 1),
            passes: PASSES as u32,
            e: self.eps,
        };
        cx.dispatch(&EXACT)
            .constant("LANES", lanes as f64)
            .input(0)
            .input(if self.masked { 2 } else { 0 })
            .input(1)
            .output(0)
            .output(1)
            .uniform(&meta)
            .workgroups(groups)
    }
}
