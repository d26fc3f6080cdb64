//! Attention on software drivers: a matrix of scores that is small enough is stored there, since products by blocks in
//! registers (`matmul/packed.rs`) are several times as fast as making scores again.

use super::{Extents, Kind, Meta, WIDTH};
use crate::error::Result;
use crate::kernel;
use crate::kernels::{Kernel, Lower, Place};
use crate::ops::matmul::Batches;
use crate::ops::matmul::packed::product;
use crate::types::Operand;

/// Scores to weights.
pub static WEIGHTS: Kernel = kernel!("attention/weights");
/// Scores to weights, and gradients of weights to gradients of scores.
pub static WEIGHTS_GRAD: Kernel = kernel!("attention/weights_grad");

/// Scores that are stored at the most, and elements of an operand that is packed.
const SCORES: usize = 1 << 22;
const OPERAND: usize = 4 * SCORES;
/// Multiply-adds below which it does not pay.
const LEAST: usize = 1 << 15;

/// One side of a product over batches, key heads and the query heads of each: where it is, its first element, strides of
/// batches, and of its own two dimensions.
#[derive(Clone, Copy)]
struct Side {
    place: Place,
    lead: usize,
    batch: [usize; 3],
    strides: [usize; 2],
}

impl Side {
    /// An input of four dimensions, with a head for each query head or for each key head.
    fn input(cx: &Lower<'_>, index: usize, e: &Extents) -> Side {
        let operand: &Operand = &cx.inputs[index];
        let s = &operand.layout.strides;
        let shared = operand.shape()[1] == e.kv_heads && e.ratio() > 1;
        let heads = if shared { [s[1], 0] } else { [e.ratio() * s[1], s[1]] };
        let batch = [s[0], heads[0], heads[1]];
        Side { place: Place::Input(index), lead: cx.lead(operand), batch, strides: [s[2], s[3]] }
    }

    /// A matrix of scores.
    fn scores(place: Place, e: &Extents) -> Side {
        let head = e.queries * e.keys;
        Side { place, lead: 0, batch: [e.heads * head, e.ratio() * head, head], strides: [e.keys, 1] }
    }

    fn transposed(self) -> Side {
        Side { strides: [self.strides[1], self.strides[0]], ..self }
    }

    /// Rows of all query heads of a key head as one.
    fn merged(self) -> Side {
        Side { batch: [self.batch[0], self.batch[1], 0], ..self }
    }
}

/// `to[b, hk, r] = a[b, hk, r] [m, k] x b[b, hk, r] [k, n]`.
fn multiply(cx: &mut Lower<'_>, dims: [usize; 3], [m, k, n]: [usize; 3], a: Side, b: Side, to: Place) -> Result<()> {
    let (dims, a_batch, b_batch) = (dims.to_vec(), a.batch.to_vec(), b.batch.to_vec());
    let batches = Batches { m, n, k, dims, a_batch, b_batch, a: a.strides, b: b.strides };
    product(cx, &batches, [(a.place, a.lead), (b.place, b.lead)], to)
}

/// Whether scores are stored. `sums`: inputs of which the rows of all heads that share a key head are added up.
pub(super) fn helps(kind: &Kind, cx: &Lower<'_>, e: &Extents, sums: &[usize]) -> bool {
    let scores = e.batches * e.heads * e.queries * e.keys;
    let joined = |index: &usize| {
        let s = &cx.inputs[*index].layout.strides;
        e.ratio() == 1 || s[1] == e.queries * s[2]
    };
    cx.caps.software
        && kind.tail == 0
        && scores <= SCORES
        && e.keys.is_multiple_of(4)
        && 2 * kind.reach(e) >= e.keys
        && [e.queries, e.keys, e.width, e.value_width].iter().all(|n| *n >= 8)
        && scores * e.width.min(e.value_width) >= LEAST
        && cx.inputs.iter().all(|i| i.numel() <= OPERAND)
        && sums.iter().all(joined)
}

/// Output and logsumexp.
pub(super) fn forward(cx: &mut Lower<'_>, e: &Extents, meta: &Meta, [mask, counts]: [usize; 2]) -> Result<()> {
    let dims = [e.batches, e.kv_heads, e.ratio()];
    let rows = e.batches * e.heads * e.queries;
    let [q, k, v] = [0, 1, 2].map(|i| Side::input(cx, i, e));
    let scores = Place::Temp(cx.temp(rows * e.keys));
    multiply(cx, dims, [e.queries, e.width, e.keys], q, k.transposed(), scores)?;
    let d = cx.dispatch(&WEIGHTS).input(mask).input(counts);
    d.write_to(scores).output(1).uniform(meta).workgroups(rows.div_ceil(WIDTH))?;
    multiply(cx, dims, [e.queries, e.keys, e.value_width], Side::scores(scores, e), v, Place::Output(0))
}

/// Gradients of q, k and v, from the statistics of every query; the cotangent of the output is input 3.
pub(super) fn backward(
    cx: &mut Lower<'_>,
    e: &Extents,
    meta: &Meta,
    [mask, counts]: [usize; 2],
    stats: Place,
) -> Result<()> {
    let dims = [e.batches, e.kv_heads, e.ratio()];
    let rows = e.batches * e.heads * e.queries;
    let [q, k, v, g] = [0, 1, 2, 3].map(|i| Side::input(cx, i, e));
    let [scores, grads] = [0; 2].map(|_| Place::Temp(cx.temp(rows * e.keys)));
    multiply(cx, dims, [e.queries, e.width, e.keys], q, k.transposed(), scores)?;
    multiply(cx, dims, [e.queries, e.value_width, e.keys], g, v.transposed(), grads)?;
    let d = cx.dispatch(&WEIGHTS_GRAD).input(mask).input(counts);
    let d = d.read_from(stats).write_to(scores).write_to(grads).uniform(meta);
    d.workgroups((rows * e.keys / 4).div_ceil(WIDTH))?;
    let [p, ds] = [scores, grads].map(|place| Side::scores(place, e));
    multiply(cx, dims, [e.queries, e.keys, e.width], ds, k, Place::Output(0))?;
    // Each key's gradients from the queries of all heads that share it.
    let (dims, depth) = ([e.batches, e.kv_heads, 1], e.ratio() * e.queries);
    let [p, ds] = [p, ds].map(|side| side.transposed().merged());
    multiply(cx, dims, [e.keys, depth, e.width], ds, q.merged(), Place::Output(1))?;
    multiply(cx, dims, [e.keys, depth, e.value_width], p, g.merged(), Place::Output(2))
}
