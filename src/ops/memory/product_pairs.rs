//! The best pairs of two sorted lists.
//!
//! Pair (i, j), counted from 1, is preceded by all (i', j') with i' <= i and j' <= j: rounded addition is monotone, so
//! their sums are no less, and their rank by rows is lower. So it is among the first k only if i j <= k, which leaves about
//! k ln k candidates of k². Enumerated by i, then j, and chosen stably, they give what a stable top-k of all pairs gives.

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// A row a workgroup, by counting.
pub static PAIRS: Kernel = kernel!("select/pairs");
/// A row an invocation, one pair after the other.
pub static PAIRS_LANE: Kernel = kernel!("select/pairs_lane");
/// Gradient of the sums.
pub static PAIR_GRADIENT: Kernel = kernel!("select/pair_gradient");

const WIDTH: usize = 64;
/// Candidates that a workgroup orders.
pub(super) const CANDIDATES: usize = 2048;
/// Largest k of the kernel with a row an invocation: it counts in bytes.
const LANE_K: usize = 255;

/// Numbers `i b + j` of the pairs of lists of lengths `a` and `b` that can be among the first `k`, in order.
pub(super) fn candidates(a: usize, b: usize, k: usize) -> Vec<u32> {
    (0..a.min(k)).flat_map(|i| (0..b.min(k / (i + 1))).map(move |j| (i * b + j) as u32)).collect()
}

/// The `k` largest sums of a value of each of two lists that descend. Inputs: values `[.., a]` and their indices, values
/// `[.., b]` and their indices, candidates. Outputs: sums, `index * n + other index`, numbers of the pairs, all `[.., k]`.
#[derive(Clone, Debug)]
pub(super) struct ProductPairs {
    pub k: usize,
    pub n: usize,
}

#[derive(ShaderType)]
struct Meta {
    rows: u32,
    a: u32,
    b: u32,
    k: u32,
    n: u32,
    candidates: u32,
}

impl ProductPairs {
    /// Numbers of the pairs of one row, in order: always the best of the first pairs not yet taken of each entry of x.
    fn row<T: Real>(&self, x: &[T], y: &[T], out: &mut [u32]) {
        let mut next: Vec<usize> = vec![0];
        for out in out {
            let mut best: Option<(usize, T)> = None;
            for (i, &j) in next.iter().enumerate() {
                if j >= y.len() || (i + 1) * (j + 1) > self.k {
                    continue;
                }
                let sum = x[i] + y[j];
                // Numbers before NaN.
                let is_nan = |x: T| x.partial_cmp(&x).is_none();
                let precedes = |than: T| sum > than || (is_nan(than) && !is_nan(sum));
                if best.is_none_or(|(_, than)| precedes(than)) {
                    best = Some((i, sum));
                }
            }
            let Some((i, _)) = best else { return };
            *out = (i * y.len() + next[i]) as u32;
            next[i] += 1;
            if i + 1 == next.len() && next.len() < x.len() {
                next.push(0);
            }
        }
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let [(_, a), (_, b)] = [0, 2].map(|i| call.inputs[i].shape.rows());
        let (x, y) = (call.f(0), call.f(2));
        let (x_indices, y_indices) = (call.u(1), call.u(3));
        let (k, n) = (self.k, self.n as u32);
        let pairs = call.take_u(2);
        par::rows(
            pairs,
            k,
            8 * k,
            #[inline(always)]
            |row, out| self.row(&x[row * a..][..a], &y[row * b..][..b], out),
        );
        let pair = |row: usize, pair: u32| (row * a + pair as usize / b, row * b + pair as usize % b);
        let pairs = &*pairs;
        for (i, (out, p)) in call.out_u(1).iter_mut().zip(pairs).enumerate() {
            let (i, j) = pair(i / k, *p);
            *out = x_indices[i].wrapping_mul(n).wrapping_add(y_indices[j]);
        }
        for (i, (out, p)) in call.out(0).iter_mut().zip(pairs).enumerate() {
            let (i, j) = pair(i / k, *p);
            *out = x[i] + y[j];
        }
    }
}

impl Op for ProductPairs {
    fn name(&self) -> &'static str {
        "product_top_k"
    }

    fn outputs(&self) -> usize {
        3
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let [x, x_indices, y, y_indices, _] = inputs else {
            return Refusal::shape("expected two lists and candidates");
        };
        for (values, indices) in [(x, x_indices), (y, y_indices)] {
            values.require(DType::F32, "scores are floats; convert with to_f32")?;
            indices.require(DType::U32, "indices are integers; convert with to_u32")?;
            if values.shape != indices.shape || values.shape.is_empty() {
                return Refusal::shape("expected values [.., m] and one index for each");
            }
        }
        let [(_, a), (_, b)] = [x.shape.rows(), y.shape.rows()];
        let outer = x.shape.len() - 1;
        if x.shape[..outer] != y.shape[..y.shape.len() - 1] {
            return Refusal::shape("both halves need the same shape but for the last dimension");
        }
        if self.k == 0 || a.checked_mul(b).is_none_or(|all| self.k > all) {
            return Refusal::shape(format!("k = {}; expected 1 to {a} x {b}, the pairs of a row", self.k));
        }
        let mut shape = x.shape[..outer].to_vec();
        shape.push(self.k);
        Ok(vec![TensorType::f32(shape.clone()), TensorType::u32(shape.clone()), TensorType::u32(shape)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let mut grads = cx.none();
        if let Some(g) = cx.cotangents[0] {
            let op = PairGradient { a: cx.inputs[0].dim(-1), b: cx.inputs[2].dim(-1) };
            let halves = cx.graph.apply(op, &[g, cx.outputs[2]]);
            grads[0] = Some(halves[0].into());
            grads[2] = Some(halves[1].into());
        }
        grads
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [(rows, a), (_, b)] = [0, 2].map(|i| cx.inputs[i].shape().rows());
        let candidates = cx.inputs[4].numel();
        let meta = Meta {
            rows: rows as u32,
            a: a as u32,
            b: b as u32,
            k: self.k as u32,
            n: self.n as u32,
            candidates: candidates as u32,
        };
        let lane = cx.caps.software && self.k <= LANE_K;
        let (kernel, groups) = if lane { (&PAIRS_LANE, rows.div_ceil(WIDTH)) } else { (&PAIRS, rows) };
        let d = cx.dispatch(kernel).input(0).input(1).input(2).input(3).input(4);
        d.output(0).output(1).output(2).uniform(&meta).workgroups(groups)
    }
}

/// Cotangents of sums `[.., k]` (input 0) to the entries of both lists of which the pairs (input 1) are made: `[.., a]` and
/// `[.., b]`, added up in the order of the pairs.
#[derive(Clone, Debug)]
struct PairGradient {
    a: usize,
    b: usize,
}

#[derive(ShaderType)]
struct GradientMeta {
    n: u32,
    a: u32,
    b: u32,
    k: u32,
}

impl PairGradient {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (_, k) = call.inputs[0].shape.rows();
        let (g, pairs, b) = (call.f(0), call.u(1), self.b);
        for output in 0..2 {
            let width = [self.a, b][output];
            par::rows(
                call.out(output),
                width,
                width + k,
                #[inline(always)]
                |row, out| {
                    out.fill(T::ZERO);
                    for (g, pair) in g[row * k..(row + 1) * k].iter().zip(&pairs[row * k..]) {
                        let pair = *pair as usize;
                        out[if output == 0 { pair / b } else { pair % b }] += *g;
                    }
                },
            );
        }
    }
}

impl Op for PairGradient {
    fn name(&self) -> &'static str {
        "pair_gradient"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let list = |n: usize| {
            let mut shape = inputs[0].shape.clone();
            if let Some(last) = shape.0.last_mut() {
                *last = n;
            }
            TensorType::f32(shape)
        };
        Ok(vec![list(self.a), list(self.b)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let (pairs, b) = (cx.inputs[1], self.b as u32);
        let i = pairs / b;
        let taken = [(cx.cotangents[0], i), (cx.cotangents[1], pairs - i * b)];
        let taken = taken.into_iter().filter_map(|(g, at)| Some(g?.take_along(at, -1)));
        vec![taken.reduce(|x, y| x + y).map(Cotangent::Dense), None]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, k) = cx.inputs[0].shape().rows();
        let n = rows * (self.a + self.b);
        let meta = GradientMeta { n: n as u32, a: self.a as u32, b: self.b as u32, k: k as u32 };
        let d = cx.dispatch(&PAIR_GRADIENT).input(0).input(1).output(0).output(1);
        d.uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    [(1, 1, 1, 1), (3, 5, 4, 6), (0, 2, 2, 3), (700, 7, 9, 12)]
        .into_iter()
        .map(|(rows, a, b, k)| {
            let sample =
                Sample::new(format!("pair_gradient {rows} [{a}, {b}] {k}"), [&[rows, k]], move |g, x: &[Var<'_>]| {
                    g.apply(PairGradient { a, b }, x)
                });
            sample.below(&[rows, k], (a * b) as u32)
        })
        .collect()
}
