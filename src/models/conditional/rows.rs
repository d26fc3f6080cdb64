//! Rows of a sequence picked by number, and put back.

use crate::error::Error;
use crate::graph::{Graph, Var};
use crate::types::TensorType;

/// Numbers of the rows `indices` `[b, .., k]` of sequences of `n` rows in the flat table `[b n, ..]`. An index of `n` or
/// more stands for no row: it is past the table's end, where gather gives zeros and scatter drops.
fn flat<'g>(indices: Var<'g>, n: usize) -> Var<'g> {
    let g = indices.graph();
    let at = g.iota(indices.shape(), 0) * n as u32 + indices;
    indices.lt(n as u32).select(at, g.full_u32([], (indices.dim(0) * n) as u32))
}

/// Rows `indices` `[b, .., k]` of `x` `[b, n, D]`: `[b, .., k, D]`. The gradient is a list of rows.
pub(super) fn take<'g>(x: Var<'g>, indices: Var<'g>) -> Var<'g> {
    let (b, n, d) = (x.dim(0), x.dim(1), x.dim(2));
    x.reshape([b * n, d]).gather(flat(indices, n))
}

/// Entries `indices` `[b, .., k]` of a mask `[b, n]`: `[b, .., k]`.
pub(super) fn take_mask<'g>(mask: Var<'g>, indices: Var<'g>) -> Var<'g> {
    take(mask.unsqueeze(2), indices).reshape(indices.shape())
}

/// Puts `rows` `[b, k, D]` at `indices` `[b, k]` of sequences of `n` rows. Rows that none is put at are `rest` `[D]`, or 0.
/// Where `repeats` is set an index may come more than once, and the mean of its rows is put there.
pub(super) fn put<'g>(rows: Var<'g>, indices: Var<'g>, n: usize, rest: Option<Var<'g>>, repeats: bool) -> Var<'g> {
    let (b, k, d) = (rows.dim(0), rows.dim(1), rows.dim(2));
    let at = flat(indices, n).reshape([b * k]);
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

/// Keeps an error in the graph unless `var` has the type.
pub(super) fn expect(graph: &Graph, what: &str, var: Var<'_>, want: &TensorType) {
    let got = var.ty();
    if got != *want && graph.error().is_none() {
        graph.fail(Error::argument(what, format!("expected {want}, got {got}")));
    }
}

/// `part` below `name`; a module without a name has its parameters at the top.
pub(super) fn below(name: &str, part: &str) -> String {
    if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") }
}
