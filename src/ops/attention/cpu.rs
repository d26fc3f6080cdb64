//! The oracle: attention pair by pair, in any precision.

use super::backward::Backward;
use super::{Extents, Kind};
use crate::kernels::{CpuCall, Ints, Slice};
use crate::types::Real;

/// A strided input of four dimensions.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a, T> {
    pub data: &'a [T],
    pub strides: [usize; 4],
}

impl<'a, T> Heads<'a, T> {
    pub fn new(call: &CpuCall<'a, T>, index: usize) -> Self {
        let input = &call.inputs[index];
        let data = match input.data {
            Slice::Float(d) => &d[input.layout.offset.min(d.len())..],
            Slice::Int(_) => &[],
        };
        let mut strides = [0; 4];
        strides.copy_from_slice(&input.layout.strides[..4]);
        Heads { data, strides }
    }

    /// Where a row starts.
    pub fn start(&self, batch: usize, head: usize, row: usize) -> usize {
        let [b, h, r, _] = self.strides;
        batch * b + head * h + row * r
    }
}

impl<T: Real> Heads<'_, T> {
    fn at(&self, [batch, head, row]: [usize; 3], feature: usize) -> T {
        self.data[self.start(batch, head, row) + feature * self.strides[3]]
    }

    fn dot(&self, row: [usize; 3], other: &Self, other_row: [usize; 3], n: usize) -> T {
        let product = |f| self.at(row, f) * other.at(other_row, f);
        (0..n).map(product).sum()
    }
}

/// Extents of a call, its mask and its counts.
pub(super) fn read<'a, T: Real>(kind: &Kind, call: &CpuCall<'a, T>, first: usize) -> (Extents, Ints<'a>, Ints<'a>) {
    let shape = |i: usize| &call.inputs[i].shape[..];
    let e = Extents::new(shape(0), shape(1), shape(2));
    let mask = if kind.masked { call.u(first) } else { &[] };
    let counts = if kind.counted { call.u(first + usize::from(kind.masked)) } else { &[] };
    (e, mask, counts)
}

/// Calls `f(batch, head, query, keys it sees)` for every query.
fn each(
    kind: &Kind,
    e: &Extents,
    (mask, counts): (Ints<'_>, Ints<'_>),
    mut f: impl FnMut(usize, usize, usize, &[usize]),
) {
    let mut seen = Vec::new();
    for batch in 0..e.batches {
        let count = kind.count(e, counts, batch);
        for query in 0..e.queries {
            let keys = kind.interval(e, query, count);
            seen.clear();
            seen.extend(keys.filter(|c| mask.is_empty() || mask[batch * e.keys + c] != 0));
            for head in 0..e.heads {
                f(batch, head, query, &seen);
            }
        }
    }
}

pub(super) fn forward<T: Real>(kind: &Kind, call: &mut CpuCall<'_, T>) {
    let (e, mask, counts) = read(kind, call, 3);
    let [q, k, v] = [0, 1, 2].map(|i| Heads::new(call, i));
    let (out, logsumexp) = (call.take(0), call.take(1));
    let scale = T::of(kind.scale);
    let every: Vec<usize> = if kind.local { Vec::new() } else { (0..e.keys).collect() };
    each(kind, &e, (mask, counts), |batch, head, query, seen| {
        let shared = head / e.ratio();
        let score = |&c: &usize| scale * q.dot([batch, head, query], &k, [batch, shared, c], e.width);
        let scores: Vec<T> = seen.iter().map(score).collect();
        let zeros = kind.zero_keys(&e, query);
        let start = if zeros > 0 { T::ZERO } else { T::LOWEST };
        let top = scores.iter().copied().fold(start, T::max);
        let mut total: T = scores.iter().map(|s| (*s - top).exp()).sum();
        if zeros > 0 {
            total += T::of(zeros as f64) * (T::ZERO - top).exp();
        }
        let row = (batch * e.heads + head) * e.queries + query;
        let blind = seen.is_empty();
        logsumexp[row] = if blind { T::LOWEST } else { top + total.ln() };
        let out = &mut out[row * e.value_width..(row + 1) * e.value_width];
        out.fill(T::ZERO);
        for (n, &c) in if blind { &every } else { seen }.iter().enumerate() {
            let p = if blind { T::ONE / T::of(e.keys as f64) } else { (scores[n] - top).exp() / total };
            for (f, out) in out.iter_mut().enumerate() {
                *out += p * v.at([batch, shared, c], f);
            }
        }
    });
}

pub(super) fn backward<T: Real>(op: &Backward, call: &mut CpuCall<'_, T>) {
    let kind = &op.kind;
    let (e, mask, counts) = read(kind, call, 6 + usize::from(op.extra));
    let [q, k, v, g] = [0, 1, 2, 3].map(|i| Heads::new(call, i));
    let (out, logsumexp) = (call.f(4), call.f(5));
    let extra = if op.extra { call.f(6) } else { &[] };
    let [dq, dk, dv] = [0, 1, 2].map(|i| call.take(i));
    for grad in [&mut *dq, &mut *dk, &mut *dv] {
        grad.fill(T::ZERO);
    }
    let scale = T::of(kind.scale);
    each(kind, &e, (mask, counts), |batch, head, query, seen| {
        let shared = head / e.ratio();
        let own = [batch, head, query];
        let row = (batch * e.heads + head) * e.queries + query;
        let key_row = |c: usize| (batch * e.kv_heads + shared) * e.keys + c;
        let mut delta: T = (0..e.value_width).map(|f| g.at(own, f) * out[row * e.value_width + f]).sum();
        if let Some(extra) = extra.get(row) {
            delta -= *extra;
        }
        if seen.is_empty() && !kind.local {
            let p = T::ONE / T::of(e.keys as f64);
            for c in 0..e.keys {
                for f in 0..e.value_width {
                    dv[key_row(c) * e.value_width + f] += p * g.at(own, f);
                }
            }
        }
        for &c in seen {
            let other = [batch, shared, c];
            let p = (scale * q.dot(own, &k, other, e.width) - logsumexp[row]).exp();
            let ds = p * (g.dot(own, &v, other, e.value_width) - delta) * scale;
            for f in 0..e.width {
                dq[row * e.width + f] += ds * k.at(other, f);
                dk[key_row(c) * e.width + f] += ds * q.at(own, f);
            }
            for f in 0..e.value_width {
                dv[key_row(c) * e.value_width + f] += p * g.at(own, f);
            }
        }
    });
}
