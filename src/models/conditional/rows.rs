//! Rows of a sequence picked by number, and put back.

use crate::error::{Error, Result, Where};
use crate::graph::{Graph, Var};
use crate::types::{Tensor, TensorType};

/// Numbers of the rows `indices` `[a, .., k]` of `b` sequences of `n` rows in the flat table `[b n, ..]`. An index of `n` or
/// more stands for no row: it is past the table's end, where gather gives zeros and scatter drops. Entry i of the first
/// dimension is about sequence `samples[i]` (u32 `[a]`), or i.
pub(super) fn flat<'g>(indices: Var<'g>, b: usize, n: usize, samples: Option<Var<'g>>) -> Var<'g> {
    let g = indices.graph();
    let sequence = match samples {
        None => g.iota(indices.shape(), 0),
        Some(samples) => {
            let mut shape = vec![1; indices.rank()];
            if let Some(first) = shape.first_mut() {
                *first = indices.dim(0);
            }
            samples.reshape(shape)
        }
    };
    indices.lt(n as u32).select(sequence * n as u32 + indices, g.full_u32([], (b * n) as u32))
}

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

/// Keeps an error in the graph unless `var` has the type.
#[track_caller]
pub(super) fn expect(graph: &Graph, what: &str, var: Var<'_>, want: &TensorType) {
    let got = var.ty();
    if got != *want {
        refuse(graph, what, format!("expected {want}, got {got}"));
    }
}

/// Keeps an error in the graph with the place of the call.
#[track_caller]
pub(super) fn refuse(graph: &Graph, what: &str, message: impl Into<String>) {
    if graph.error().is_none() {
        graph.fail(Error::argument(format!("{what} at {}", Where::caller()), message));
    }
}

/// Refuses a matrix of more elements than a tensor can have, before anything of its size is made.
pub(super) fn within(what: &str, extents: &[usize]) -> Result<()> {
    TensorType::f32(extents).check_size(|| what.to_owned())
}

/// `part` below `name`; a module without a name has its parameters at the top.
pub(super) fn below(name: &str, part: &str) -> String {
    if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") }
}
