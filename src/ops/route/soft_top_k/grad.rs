//! Gradient of the coordinate descent from its trace: 2 T numbers a row instead of T rows.
//!
//! With `u = g y / e_{T+1}` on entries that are free at the end, `G_T = sum u` and `G_{t-1} = G_t p_t`, where `p_t` is the
//! total softmax weight of the entries clipped at t: `ds_j = u_j - sum_t G_t softmax_t(j)` over the t at which j is free,
//! and `dk = sum_t G_t e_t / k`.
//!
//! While epsilon does not change, `a_t` only rises or only falls: an entry is free in the first or the last of these
//! iterations, and with `V_t = G_t + V_r exp((a_r - a_t) / e)`, `r` before `t` in that order, all of them together take
//! `V_t exp((s_j + a_t) / e) / k`, `t` the last in which it is free.

use super::iterations::Descent;
use super::rows::{Rows, SMALLEST, infer, lesser, like_counts};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Gradient, Op, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{Real, TensorType};

/// The scalars of a row, one row an invocation.
pub static DESCENT_WEIGHTS: Kernel = kernel!("route/descent_weights");
/// The gradient of a score, one an invocation.
pub static DESCENT_GRAD: Kernel = kernel!("route/descent_grad");

const WIDTH: usize = 64;
/// Scores that stay in the nearest cache while all iterations pass over them.
const BLOCK: usize = 1024;
/// Scores that look for their level side by side.
const LANES: usize = 32;
/// Exponents below this are 0 in single precision.
const FLOOR: f64 = -104.0;

/// Inputs scores, counts, epsilons, trace, `u`, `sum u` `[.., 1]`, `g` (only its own derivative looks at it) and, if masked,
/// the mask; outputs the gradients of the scores `[.., n]` and of the counts `[..]`.
#[derive(Clone, Debug)]
pub struct DescentGrad(pub Descent);

/// The scalars of one row.
struct Recurrence<'a, T> {
    descent: &'a Descent,
    a: &'a [T],
    c: &'a [T],
    log_k: T,
}

/// What iterations take from the scores up to a level, and not up to the next.
struct Level<T> {
    level: T,
    a: T,
    weight: T,
}

impl<'a, T: Real> Recurrence<'a, T> {
    fn new(descent: &'a Descent, trace: &'a [T], k: T) -> Self {
        let (a, c) = trace.split_at(descent.iterations());
        Recurrence { descent, a, c, log_k: k.max(T::of(SMALLEST)).ln() }
    }

    fn e(&self, t: usize) -> T {
        T::of(f64::from(self.descent.schedule[t]))
    }

    fn exp(x: T) -> T {
        x.max(T::of(FLOOR)).min(T::ZERO).exp()
    }

    /// All `G_t`, and `sum_t G_t e_t`.
    fn weights(&self, total: T) -> (Vec<T>, T) {
        let n = self.a.len();
        let mut weights = vec![T::ZERO; n];
        let (mut g, mut sum) = (total, T::ZERO);
        for t in (0..n).rev() {
            weights[t] = g;
            sum += g * self.e(t);
            if t > 0 {
                let drop = (self.a[t] - self.a[t - 1]) / self.e(t) - self.log_k;
                g *= (self.c[t] * Self::exp(drop)).min(T::ONE);
            }
        }
        (weights, sum)
    }

    /// Where the iteration clips.
    fn level(&self, t: usize) -> T {
        if t > 0 { -self.a[t - 1] } else { T::ZERO }
    }

    /// The iterations of the last epsilon, the highest level first; of equal levels the last one speaks for all.
    fn tail(&self, weights: &[T]) -> Vec<Level<T>> {
        let n = self.a.len();
        let mut order: Vec<usize> = (self.descent.tail()..n).collect();
        let (Some(&first), Some(&last)) = (order.first(), order.last()) else {
            return Vec::new();
        };
        if self.level(last) > self.level(first) {
            order.reverse();
        }
        let inverse = T::ONE / self.e(last);
        let mut levels: Vec<Level<T>> = Vec::with_capacity(n);
        let (mut before, mut weight) = (self.a[order[0]], T::ZERO);
        for t in order {
            let a = self.a[t];
            weight = weight * Self::exp((before - a) * inverse) + weights[t];
            before = a;
            let level = levels.last().map_or(self.level(t), |l| lesser(self.level(t), l.level));
            levels.pop_if(|l| l.level == level);
            levels.push(Level { level, a, weight });
        }
        levels
    }

    /// Takes from gradients what the sums inside the iterations take from them; 0 from clipped scores.
    #[inline(always)]
    fn take(&self, scores: &[T], weights: &[T], ds: &mut [T]) {
        let (singles, levels) = (self.descent.first()..self.descent.tail(), self.tail(weights));
        let inverse = T::ONE / self.e(self.a.len() - 1);
        for (scores, ds) in scores.chunks(BLOCK).zip(ds.chunks_mut(BLOCK)) {
            for t in singles.clone().rev() {
                let (level, a, inverse, weight) = (self.level(t), self.a[t], T::ONE / self.e(t), weights[t]);
                for (d, &s) in ds.iter_mut().zip(scores) {
                    let taken = lesser((s + a) * inverse - self.log_k, T::ZERO).exp();
                    *d -= weight * if s > level { T::ZERO } else { taken };
                }
            }
            for (scores, ds) in scores.chunks(LANES).zip(ds.chunks_mut(LANES)) {
                let mut s = [T::of(f64::INFINITY); LANES];
                s[..scores.len()].copy_from_slice(scores);
                let (mut a, mut weight) = ([T::ZERO; LANES], [T::ZERO; LANES]);
                for l in &levels {
                    for i in 0..LANES {
                        let free = s[i] <= l.level;
                        a[i] = if free { l.a } else { a[i] };
                        weight[i] = if free { l.weight } else { weight[i] };
                    }
                }
                for i in 0..LANES {
                    weight[i] *= lesser((s[i] + a[i]) * inverse - self.log_k, T::ZERO).exp();
                }
                ds.iter_mut().zip(&weight).for_each(|(d, w)| *d -= *w);
            }
        }
    }
}

impl DescentGrad {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let input = Rows::new(call, 1, self.0.masked.then_some(7));
        let (trace, u, totals) = (call.f(3), call.f(4), call.f(5));
        let width = 2 * self.0.iterations();
        let (ds, dk) = (call.take(0), call.take(1));
        let grain = input.grain(self.0.iterations());
        par::ragged_pair(
            (ds, input.n),
            (dk, 1),
            input.rows,
            grain,
            #[inline(always)]
            |_, piece, ds, dk| {
                for (i, dk) in dk.iter_mut().enumerate() {
                    let row = piece * grain + i;
                    let k = input.k(row);
                    let recurrence = Recurrence::new(&self.0, &trace[row * width..(row + 1) * width], k);
                    let (weights, sum) = recurrence.weights(totals[row]);
                    *dk = if k > T::of(SMALLEST) { sum / k } else { T::ZERO };
                    let ds = &mut ds[i * input.n..(i + 1) * input.n];
                    ds.copy_from_slice(&u[row * input.n..(row + 1) * input.n]);
                    recurrence.take(&input.all(row), &weights, ds);
                }
            },
        );
    }
}

impl Op for DescentGrad {
    fn name(&self) -> &'static str {
        "soft_top_k_grad"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (ds, rows) = infer(&inputs[0], &inputs[1], inputs.get(7))?;
        Ok(vec![ds, TensorType::f32(rows)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        // A function of scores, counts and g alone: trace and u follow from them.
        let fresh = [0, 1, 6].map(|i| cx.inputs[i].renamed());
        let [s, k, g] = fresh;
        let y = self.0.composed(s, k, cx.inputs.get(7).copied());
        let first = cx.graph.vjp(&[(y, g)], &[s, k]);
        let mut seeds = Vec::new();
        for (gradient, cotangent) in first.iter().zip(&cx.cotangents) {
            if let (Some(d), Some(c)) = (gradient.dense(), cotangent) {
                // One count for all rows: its gradient is the sum of theirs.
                let c = if d.shape() == c.shape() { *c } else { like_counts(*c, d) };
                seeds.push((d, c));
            }
        }
        let second = cx.graph.vjp(&seeds, &fresh);
        let mut all = cx.none();
        for (i, gradient) in [0, 1, 6].into_iter().zip(&second) {
            all[i] = Gradient::dense(gradient).map(Cotangent::Dense);
        }
        all
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, n) = cx.inputs[0].shape().rows();
        let meta = self.0.meta(rows, n, cx.inputs[1].numel());
        let weights = cx.temp(rows * self.0.iterations());
        cx.dispatch(&DESCENT_WEIGHTS)
            .input(1)
            .input(2)
            .input(3)
            .input(5)
            .write(weights)
            .output(1)
            .uniform(&meta)
            .workgroups(rows.div_ceil(WIDTH))?;
        cx.dispatch(&DESCENT_GRAD)
            .input(0)
            .input(if self.0.masked { 7 } else { 0 })
            .input(1)
            .input(2)
            .input(3)
            .read(weights)
            .input(4)
            .output(0)
            .uniform(&meta)
            .workgroups((rows * n).div_ceil(WIDTH))
    }
}
