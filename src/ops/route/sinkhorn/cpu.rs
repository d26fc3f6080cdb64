//! Sinkhorn on the CPU: rows in parallel, columns by pieces.

use super::Extents;
use crate::kernels::vector::{exp_sum, larger, max, sum};
use crate::kernels::{CpuCall, par};
use crate::types::Real;

/// Columns that are worked on together.
const PIECE: usize = 256;
/// Terms of one sum; longer ones are sums of such sums, so that they lose no digits.
const TERMS: usize = 64;

/// Scores of one batch entry and which tokens count (empty: all).
#[derive(Clone, Copy)]
struct Block<'a, T> {
    scores: &'a [T],
    mask: &'a [u32],
    tokens: usize,
}

/// Potentials of one iteration.
#[derive(Clone, Copy)]
struct Potentials<'a, T> {
    slots: &'a [[T; 2]],
    /// Empty: those before the first iteration, all 0.
    tokens: &'a [[T; 2]],
    /// Whether the token's is subtracted first: in the order in which the later was made its lines sum to 1 whatever the
    /// rounding.
    token_first: bool,
}

/// `x` less a potential.
#[inline(always)]
fn less<T: Real>(x: T, potential: [T; 2]) -> T {
    larger(T::LOWEST, x - potential[0]) - potential[1]
}

/// Maximum and logarithm of the rest, of a line's exponents.
#[inline(always)]
fn potential<T: Real>(exponents: &mut [T]) -> [T; 2] {
    if exponents.is_empty() {
        return [T::ZERO; 2];
    }
    let top = max(exponents);
    [top, exp_sum(exponents, top).ln()]
}

impl<'a, T: Real> Block<'a, T> {
    fn new(call: &CpuCall<'a, T>, e: &Extents, mask: Option<usize>, batch: usize) -> Self {
        let n = e.slots * e.tokens;
        let mask = mask.map_or(&[][..], |i| &call.u(i)[batch * e.tokens..(batch + 1) * e.tokens]);
        Block { scores: &call.f(0)[batch * n..(batch + 1) * n], mask, tokens: e.tokens }
    }

    #[inline(always)]
    fn slots(&self) -> usize {
        self.scores.len() / self.tokens
    }

    #[inline(always)]
    fn row(&self, slot: usize) -> &'a [T] {
        &self.scores[slot * self.tokens..(slot + 1) * self.tokens]
    }

    fn slot_potentials(&self, tokens: &[[T; 2]], own: &mut [[T; 2]]) {
        par::rows(
            own,
            1,
            8 * self.tokens,
            #[inline(always)]
            |slot, own| {
                let row = self.row(slot);
                let mut exponents: Vec<T> = match tokens {
                    [] => row.iter().map(|x| less(*x, [T::ZERO; 2])).collect(),
                    _ => row.iter().zip(tokens).map(|(x, v)| less(*x, *v)).collect(),
                };
                if !self.mask.is_empty() {
                    let mut visible = self.mask.iter();
                    exponents.retain(|_| visible.next().is_some_and(|m| *m != 0));
                }
                own[0] = potential(&mut exponents);
            },
        );
    }

    fn token_potentials(&self, slots: &[[T; 2]], own: &mut [[T; 2]]) {
        par::pieces(
            own,
            PIECE,
            #[inline(always)]
            |from, own| {
                let (mut tops, mut totals) = ([T::LOWEST; PIECE], [T::ZERO; PIECE]);
                for (slot, u) in slots.iter().enumerate() {
                    for (top, x) in tops.iter_mut().zip(&self.row(slot)[from..]) {
                        *top = larger(*top, less(*x, *u));
                    }
                }
                let mut sums = [T::ZERO; PIECE];
                for (part, slots) in slots.chunks(TERMS).enumerate() {
                    sums.fill(T::ZERO);
                    for (slot, u) in slots.iter().enumerate() {
                        let row = &self.row(part * TERMS + slot)[from..];
                        for ((sum, top), x) in sums.iter_mut().zip(&tops).zip(row) {
                            *sum += (less(*x, *u) - *top).exp();
                        }
                    }
                    totals.iter_mut().zip(&sums).for_each(|(total, sum)| *total += *sum);
                }
                for ((own, top), total) in own.iter_mut().zip(tops).zip(totals) {
                    *own = [top, total.ln()];
                }
            },
        );
    }

    /// Weights of a slot for the tokens from `from` on: exp of the scores less both potentials, 0 for hidden tokens.
    #[inline(always)]
    fn weights(&self, p: Potentials<'_, T>, slot: usize, from: usize, out: &mut [T]) {
        let (u, row) = (p.slots[slot], &self.row(slot)[from..]);
        match p.tokens.get(from..) {
            None | Some([]) => out.iter_mut().zip(row).for_each(|(o, x)| *o = less(less(*x, [T::ZERO; 2]), u).exp()),
            Some(tokens) => {
                for ((out, x), v) in out.iter_mut().zip(row).zip(tokens) {
                    let (first, second) = if p.token_first { (*v, u) } else { (u, *v) };
                    *out = less(less(*x, first), second).exp();
                }
            }
        }
        if let Some(mask) = self.mask.get(from..) {
            out.iter_mut().zip(mask).for_each(|(o, m)| *o = if *m == 0 { T::ZERO } else { *o });
        }
    }

    /// `-sum_j weight value(i, j)` of every slot i.
    fn slot_flow(&self, p: Potentials<'_, T>, out: &mut [T], value: impl Fn(usize, usize) -> T + Sync) {
        par::rows(
            out,
            1,
            8 * self.tokens,
            #[inline(always)]
            |slot, out| {
                let mut weights = vec![T::ZERO; self.tokens];
                self.weights(p, slot, 0, &mut weights);
                weights.iter_mut().enumerate().for_each(|(token, w)| *w *= value(slot, token));
                out[0] = T::ZERO - sum(&weights);
            },
        );
    }

    /// `-sum_i weight value(i, j)` of every token j.
    fn token_flow(&self, p: Potentials<'_, T>, out: &mut [T], value: impl Fn(usize, usize) -> T + Sync) {
        par::pieces(
            out,
            PIECE,
            #[inline(always)]
            |from, out| {
                let mut weights = [T::ZERO; PIECE];
                let weights = &mut weights[..out.len()];
                out.fill(T::ZERO);
                let mut sums = [T::ZERO; PIECE];
                for first in (0..self.slots()).step_by(TERMS) {
                    sums.fill(T::ZERO);
                    for slot in first..(first + TERMS).min(self.slots()) {
                        self.weights(p, slot, from, weights);
                        for (k, (sum, w)) in sums.iter_mut().zip(weights.iter()).enumerate() {
                            *sum += *w * value(slot, from + k);
                        }
                    }
                    out.iter_mut().zip(&sums).for_each(|(out, sum)| *out -= *sum);
                }
            },
        );
    }
}

/// Potentials as pairs.
fn pairs<T: Real>(flat: &[T]) -> &[[T; 2]] {
    flat.as_chunks().0
}

pub(super) fn forward<T: Real>(iterations: usize, masked: bool, call: &mut CpuCall<'_, T>) {
    let e = Extents::new(call.inputs[0].shape);
    let (n, m) = (e.slots, e.tokens);
    if e.batches * n * m == 0 {
        return;
    }
    let outs = [0, 1, 2].map(|i| call.take(i));
    let call = &*call;
    let sizes = [n * m, iterations * n * 2, iterations * m * 2];
    par::triples(
        outs,
        sizes,
        e.batches,
        #[inline(always)]
        |batch, [plan, u, v]| {
            let block = Block::new(call, &e, masked.then_some(1), batch);
            let (u, v) = (u.as_chunks_mut().0, v.as_chunks_mut().0);
            for t in 0..iterations {
                let (before, rest) = v.split_at_mut(t * m);
                let before = before.len().checked_sub(m).map_or(&[][..], |start| &before[start..]);
                let own = &mut u[t * n..(t + 1) * n];
                block.slot_potentials(before, own);
                block.token_potentials(own, &mut rest[..m]);
            }
            let last = iterations - 1;
            let p = Potentials { slots: &u[last * n..], tokens: &v[last * m..], token_first: false };
            par::rows(
                plan,
                m,
                8 * m,
                #[inline(always)]
                |slot, row| block.weights(p, slot, 0, row),
            );
        },
    );
}

pub(super) fn backward<T: Real>(iterations: usize, masked: bool, call: &mut CpuCall<'_, T>) {
    let e = Extents::new(call.inputs[0].shape);
    let (n, m) = (e.slots, e.tokens);
    if e.batches * n * m == 0 {
        return;
    }
    let out = call.take(0);
    let call = &*call;
    let (u, v) = (pairs(call.f(2)), pairs(call.f(3)));
    par::pieces(
        out,
        n * m,
        #[inline(always)]
        |start, out| {
            let batch = start / (n * m);
            let block = Block::new(call, &e, masked.then_some(4), batch);
            let g = &call.f(1)[start..start + n * m];
            let u = &u[batch * iterations * n..(batch + 1) * iterations * n];
            let v = &v[batch * iterations * m..(batch + 1) * iterations * m];
            let slots = |t: usize| &u[t * n..(t + 1) * n];
            // Weights after iteration t, whose columns sum to 1, and in its middle, where rows do.
            let after = |t: usize| Potentials { slots: slots(t), tokens: &v[t * m..(t + 1) * m], token_first: false };
            let middle = |t: usize| {
                let tokens = t.checked_sub(1).map_or(&[][..], |t| &v[t * m..(t + 1) * m]);
                Potentials { slots: slots(t), tokens, token_first: true }
            };
            let (mut du, mut dv) = (vec![T::ZERO; iterations * n], vec![T::ZERO; iterations * m]);
            let last = iterations - 1;
            block.token_flow(after(last), &mut dv[last * m..], |i, j| g[i * m + j]);
            for t in (0..iterations).rev() {
                let (dv_before, dv_own) = dv.split_at_mut(t * m);
                let du = &mut du[t * n..(t + 1) * n];
                let own = |i: usize, j: usize| if t == last { dv_own[j] + g[i * m + j] } else { dv_own[j] };
                block.slot_flow(after(t), du, own);
                if let Some(start) = dv_before.len().checked_sub(m) {
                    block.token_flow(middle(t), &mut dv_before[start..], |i, _| du[i]);
                }
            }
            par::rows(
                out,
                m,
                16 * m * iterations,
                #[inline(always)]
                |slot, out| {
                    let mut weights = vec![T::ZERO; m];
                    out.fill(T::ZERO);
                    for t in 0..iterations {
                        block.weights(middle(t), slot, 0, &mut weights);
                        out.iter_mut().zip(&weights).for_each(|(o, w)| *o += *w * du[t * n + slot]);
                        block.weights(after(t), slot, 0, &mut weights);
                        for (token, (o, w)) in out.iter_mut().zip(&weights).enumerate() {
                            let plan = if t == last { g[slot * m + token] } else { T::ZERO };
                            *o += *w * (dv[t * m + token] + plan);
                        }
                    }
                },
            );
        },
    );
}
