//! Rows of a sequence picked by number, and put back.

use crate::graph::{Graph, Var};
pub(super) use crate::models::parts::{below, expect, flat, refuse, within};
use crate::types::Tensor;

/// Rows `indices` `[a, .., k]` of `x` `[b, n, D]`: `[a, .., k, D]`, from the sequences `samples` `[a]`, or each from its own.
/// The gradient is a list of rows.
pub(super) fn take<'g>(x: Var<'g>, indices: Var<'g>, samples: Option<Var<'g>>) -> Var<'g> {
    let (b, n, d) = (x.dim(0), x.dim(1), x.dim(2));
    x.reshape([b * n, d]).gather(flat(indices, b, n, samples))
}

/// Entries `indices` `[a, .., k]` of a mask `[b, n]`: `[a, .., k]`.
pub(super) fn take_mask<'g>(mask: Var<'g>, indices: Var<'g>, samples: Option<Var<'g>>) -> Var<'g> {
    take(mask.unsqueeze(2), indices, samples).reshape(indices.shape())
}

/// A constant of numbers, `[count]`.
pub(super) fn numbers(g: &Graph, count: usize, number: impl Fn(usize) -> usize) -> Var<'_> {
    match Tensor::u32([count], (0..count).map(|i| number(i) as u32).collect()) {
        Ok(tensor) => g.constant(tensor),
        Err(error) => {
            g.fail(error);
            g.full_u32([count], 0)
        }
    }
}

/// Puts `rows` `[b, k, D]` at `indices` `[b, k]` of sequences of `n` rows. Rows that none is put at are `rest` `[D]`, or 0.
/// Where `repeats` is set an index may come more than once, and the mean of its rows is put there.
pub(super) fn put<'g>(rows: Var<'g>, indices: Var<'g>, n: usize, rest: Option<Var<'g>>, repeats: bool) -> Var<'g> {
    let (b, k, d) = (rows.dim(0), rows.dim(1), rows.dim(2));
    let at = flat(indices, b, n, None).reshape([b * k]);
    let mut put = rows.reshape([b * k, d]).scatter_add(at, b * n);
    if repeats || rest.is_some() {
        let count = rows.graph().full([b * k, 1], 1.0).scatter_add(at, b * n);
        if repeats {
            put = put / count.maximum(1e-5);
        }
        if let Some(rest) = rest {
            put = count.gt(0.0).select(put, rest);
        }
    }
    put.reshape([b, n, d])
}
