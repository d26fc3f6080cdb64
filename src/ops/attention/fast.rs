//! Attention on the CPU in single precision: products by panels of queries, heads in parallel. A panel's scores live in
//! the cache of a core; there is never a whole matrix of them.

use super::backward::Backward;
use super::cpu::{Heads, read};
use super::{Extents, Kind};
use crate::kernels::gemm::{Matrix, gemm, gemm_add};
use crate::kernels::vector::{dot, exp_sum, larger, map_fold, vectorized};
use crate::kernels::{CpuCall, Ints, par, scratch};
use crate::types::Real;
use std::ops::Range;

/// Queries of a panel; fewer where there are many keys, or where keys that only others see are computed along. Fixed by
/// shape, so that results do not depend on threads.
fn panel(kind: &Kind, e: &Extents) -> usize {
    let most = if kind.causal || kind.reach(e) < e.keys { 64 } else { 256 };
    ((1 << 16) / kind.reach(e).max(1)).clamp(8, most)
}

/// Queries `rows` of one head and all keys that any of them sees.
struct Panel<'a> {
    kind: &'a Kind,
    e: &'a Extents,
    mask: &'a [u32],
    count: usize,
    rows: Range<usize>,
    keys: Range<usize>,
}

impl<'a> Panel<'a> {
    fn new(
        kind: &'a Kind,
        e: &'a Extents,
        (mask, counts): (Ints<'a>, Ints<'a>),
        batch: usize,
        rows: Range<usize>,
    ) -> Self {
        let count = kind.count(e, counts, batch);
        let first = kind.interval(e, rows.start, count);
        let last = kind.interval(e, rows.end - 1, count);
        let mask = if mask.is_empty() { mask } else { &mask[batch * e.keys..(batch + 1) * e.keys] };
        Panel { kind, e, mask, count, rows, keys: first.start.min(last.end)..last.end }
    }

    /// Scores of the panel, not yet scaled.
    fn scores(&self, q: Heads<'_, f32>, k: Heads<'_, f32>, at: [usize; 3], scores: &mut [f32]) {
        let [batch, head, kv_head] = at;
        let a = matrix(q, batch, head, self.rows.start);
        let b = transposed(k, batch, kv_head, self.keys.start);
        gemm(scores, self.keys.len(), self.e.width, a, b);
    }

    /// Calls `f(row within the panel, scores of the keys it may see, the others)` for every query; hidden keys' scores are
    /// 0 after it, those of masked keys within the interval `f32::MIN` before it.
    fn each(&self, scores: &mut [f32], mut f: impl FnMut(usize, &mut [f32], bool)) {
        let n = self.keys.len();
        for row in 0..self.rows.len() {
            let scores = &mut scores[row * n..(row + 1) * n];
            let seen = self.kind.interval(self.e, self.rows.start + row, self.count);
            let from = seen.start.clamp(self.keys.start, self.keys.end) - self.keys.start;
            let to = seen.end.clamp(self.keys.start + from, self.keys.end) - self.keys.start;
            scores[..from].fill(0.0);
            scores[to..].fill(0.0);
            let own = &mut scores[from..to];
            let mut blind = own.is_empty();
            if !self.mask.is_empty() {
                let mask = &self.mask[self.keys.start + from..self.keys.start + to];
                for (s, m) in own.iter_mut().zip(mask) {
                    *s = if *m == 0 { f32::MIN } else { *s };
                }
                blind = mask.iter().all(|m| *m == 0);
            }
            f(row, own, blind);
        }
    }
}

fn matrix<'a>(x: Heads<'a, f32>, batch: usize, head: usize, row: usize) -> Matrix<'a, f32> {
    Matrix { data: &x.data[x.start(batch, head, row).min(x.data.len())..], strides: [x.strides[2], x.strides[3]] }
}

fn transposed<'a>(x: Heads<'a, f32>, batch: usize, head: usize, row: usize) -> Matrix<'a, f32> {
    let m = matrix(x, batch, head, row);
    Matrix { strides: [m.strides[1], m.strides[0]], ..m }
}

fn dense(data: &[f32], strides: [usize; 2]) -> Matrix<'_, f32> {
    Matrix { data, strides }
}

/// `scale * x`, leaving masked scores as they are; the largest result.
#[inline(always)]
fn scale(x: &mut [f32], by: f32) -> f32 {
    map_fold(x, f32::MIN, |x| if x == f32::MIN { x } else { x * by }, larger)
}

pub(super) fn forward(kind: &Kind, call: &mut CpuCall<'_, f32>) {
    let (e, mask, counts) = read(kind, call, 3);
    let [q, k, v] = [0, 1, 2].map(|i| Heads::new(call, i));
    let (out, logsumexp) = (call.take(0), call.take(1));
    let size = panel(kind, &e);
    let by = kind.scale as f32;
    let one = |entry: usize, number: usize, out: &mut [f32], logsumexp: &mut [f32]| {
        let (batch, head) = (entry / e.heads, entry % e.heads);
        let kv_head = head / e.ratio();
        let first = number * size;
        let p = Panel::new(kind, &e, (mask, counts), batch, first..first + logsumexp.len());
        let n = p.keys.len();
        let mut inverse = vec![0.0; p.rows.len()];
        scratch::with(p.rows.len() * n, |scores| {
            p.scores(q, k, [batch, head, kv_head], scores);
            p.each(scores, |row, own, blind| {
                if blind {
                    own.fill(0.0);
                    logsumexp[row] = f32::MIN;
                    return;
                }
                let zeros = kind.zero_keys(&e, first + row);
                vectorized(
                    #[inline(always)]
                    || {
                        let top = scale(own, by).max(if zeros > 0 { 0.0 } else { f32::MIN });
                        // Not as a product with 0: far below 0 the exponential is infinite.
                        let more = if zeros > 0 { zeros as f32 * Real::exp(-top) } else { 0.0 };
                        let total = exp_sum(own, top) + more;
                        inverse[row] = 1.0 / total;
                        logsumexp[row] = top + Real::ln(total);
                    },
                );
            });
            let values = matrix(v, batch, kv_head, p.keys.start);
            gemm(out, e.value_width, n, dense(scores, [n, 1]), values);
        });
        for (row, out) in out.chunks_mut(e.value_width.max(1)).enumerate() {
            if inverse[row] == 0.0 && !kind.local {
                mean(&e, v, [batch, kv_head], out);
            } else {
                out.iter_mut().for_each(|x| *x *= inverse[row]);
            }
        }
    };
    par::ragged_pair((out, e.value_width), (logsumexp, 1), e.queries, size, one);
}

/// Mean of all values, for a query that sees no key.
fn mean(e: &Extents, v: Heads<'_, f32>, [batch, head]: [usize; 2], out: &mut [f32]) {
    let share = 1.0 / e.keys.max(1) as f32;
    out.fill(0.0);
    for c in 0..e.keys {
        let start = v.start(batch, head, c);
        for (f, out) in out.iter_mut().enumerate() {
            *out += share * v.data[start + f * v.strides[3]];
        }
    }
}

pub(super) fn backward(op: &Backward, call: &mut CpuCall<'_, f32>) {
    let (e, _, _) = read(&op.kind, call, 6 + usize::from(op.extra));
    let [dq, dk, dv] = [0, 1, 2].map(|i| call.take(i));
    let keys = e.keys * e.width;
    let values = e.keys * e.value_width;
    if e.kv_heads == e.heads {
        return per_head(op, call, dq, dk, dv);
    }
    // Query heads that share a key head: each its own part, then summed in order.
    let heads = e.batches * e.heads;
    let mut parts_k = vec![0.0; heads * keys];
    let mut parts_v = vec![0.0; heads * values];
    per_head(op, call, dq, &mut parts_k, &mut parts_v);
    for (grad, parts, n) in [(dk, parts_k, keys), (dv, parts_v, values)] {
        par::rows(grad, n, n * e.ratio(), |entry, grad| {
            grad.fill(0.0);
            for part in parts[entry * e.ratio() * n..(entry + 1) * e.ratio() * n].chunks(n.max(1)) {
                grad.iter_mut().zip(part).for_each(|(g, p)| *g += p);
            }
        });
    }
}

/// Gradients of every query head, key heads repeated.
fn per_head(op: &Backward, call: &CpuCall<'_, f32>, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
    let (e, _, _) = read(&op.kind, call, 6 + usize::from(op.extra));
    let sizes = [e.queries * e.width, e.keys * e.width, e.keys * e.value_width];
    par::triples([dq, dk, dv], sizes, e.batches * e.heads, |entry, [dq, dk, dv]| {
        dq.fill(0.0);
        dk.fill(0.0);
        dv.fill(0.0);
        one_head(op, call, entry, [dq, dk, dv]);
    });
}

fn one_head(op: &Backward, call: &CpuCall<'_, f32>, entry: usize, [dq, dk, dv]: [&mut [f32]; 3]) {
    let kind = &op.kind;
    let (e, mask, counts) = read(kind, call, 6 + usize::from(op.extra));
    let [q, k, v, g] = [0, 1, 2, 3].map(|i| Heads::new(call, i));
    let (out, logsumexp) = (call.f(4), call.f(5));
    let extra = if op.extra { call.f(6) } else { &[] };
    let (batch, head) = (entry / e.heads, entry % e.heads);
    let kv_head = head / e.ratio();
    let by = kind.scale as f32;
    let size = panel(kind, &e);
    let mut blind_sum = vec![0.0; e.value_width];
    let (mut scores, mut slopes) = (Vec::new(), Vec::new());
    for first in (0..e.queries).step_by(size) {
        let last = (first + size).min(e.queries);
        let p = Panel::new(kind, &e, (mask, counts), batch, first..last);
        let (rows, n) = (p.rows.len(), p.keys.len());
        scores.resize(rows * n, 0.0);
        slopes.resize(rows * n, 0.0);
        p.scores(q, k, [batch, head, kv_head], &mut scores);
        let g_rows = matrix(g, batch, head, first);
        let values = transposed(v, batch, kv_head, p.keys.start);
        gemm(&mut slopes, n, e.value_width, g_rows, values);
        let head_row = (batch * e.heads + head) * e.queries + first;
        p.each(&mut scores, |row, own, blind| {
            if blind {
                own.fill(0.0);
                let start = g.start(batch, head, first + row);
                for (f, sum) in blind_sum.iter_mut().enumerate() {
                    *sum += g.data[start + f * g.strides[3]];
                }
                return;
            }
            vectorized(
                #[inline(always)]
                || {
                    scale(own, by);
                    exp_sum(own, logsumexp[head_row + row]);
                },
            );
        });
        let weights = dense(&scores, [1, n]);
        let dv_rows = &mut dv[p.keys.start * e.value_width..p.keys.end * e.value_width];
        gemm_add(dv_rows, e.value_width, rows, weights, g_rows);
        for row in 0..rows {
            let at = head_row + row;
            let out = &out[at * e.value_width..(at + 1) * e.value_width];
            let start = g.start(batch, head, first + row);
            let delta = match g.strides[3] {
                1 => dot(out, &g.data[start..start + e.value_width]),
                step => (0..e.value_width).map(|f| out[f] * g.data[start + f * step]).sum(),
            };
            let delta = delta - extra.get(at).copied().unwrap_or(0.0);
            let slopes = &mut slopes[row * n..(row + 1) * n];
            let weights = &scores[row * n..(row + 1) * n];
            vectorized(
                #[inline(always)]
                || {
                    for (s, w) in slopes.iter_mut().zip(weights) {
                        *s = (*s - delta) * w * by;
                    }
                },
            );
        }
        let keys = matrix(k, batch, kv_head, p.keys.start);
        let dq_rows = &mut dq[first * e.width..last * e.width];
        gemm(dq_rows, e.width, n, dense(&slopes, [n, 1]), keys);
        let dk_rows = &mut dk[p.keys.start * e.width..p.keys.end * e.width];
        let queries = matrix(q, batch, head, first);
        gemm_add(dk_rows, e.width, rows, dense(&slopes, [1, n]), queries);
    }
    let share = if kind.local { 0.0 } else { 1.0 / e.keys.max(1) as f32 };
    for dv in dv.chunks_mut(e.value_width.max(1)) {
        dv.iter_mut().zip(&blind_sum).for_each(|(x, b)| *x += share * b);
    }
}
