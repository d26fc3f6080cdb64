//! What all models are built with.

use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::types::TensorType;

/// Keeps an error in the graph unless `var` has the type.
#[track_caller]
pub(crate) fn expect(graph: &Graph, what: &str, var: Var<'_>, want: &TensorType) {
    let got = var.ty();
    if got != *want {
        refuse(graph, what, format!("expected {want}, got {got}"));
    }
}

/// Keeps an error in the graph with the place of the call.
#[track_caller]
pub(crate) fn refuse(graph: &Graph, what: &str, message: impl Into<String>) {
    if graph.error().is_none() {
        graph.fail(Error::argument(what, message));
    }
}

/// Refuses a matrix of more elements than a tensor can have, before anything of its size is made.
pub(crate) fn within(what: &str, extents: &[usize]) -> Result<()> {
    TensorType::f32(extents).check_size(&|| what.to_owned())
}

/// Layers of a model at most: far more than any has, and few enough to be declared in a moment.
const LAYERS: usize = 1 << 16;

/// Refuses more layers than that.
pub(crate) fn depth_within(config: &str, depth: usize) -> Result<()> {
    if depth <= LAYERS {
        return Ok(());
    }
    Err(Error::argument(format!("{config}::depth"), format!("is {depth}; expected at most {LAYERS} layers")))
}

/// `new` in the texts marked in `mask` (u32 0/1 `[b]`), else `old`; both `[b, ..]`.
#[track_caller]
pub(crate) fn chosen<'g>(mask: Var<'g>, new: Var<'g>, old: Var<'g>) -> Var<'g> {
    let mut shape = vec![1; old.rank()];
    if let Some(first) = shape.first_mut() {
        *first = old.dim(0);
    }
    mask.reshape(shape).select(new, old)
}

/// `part` below `name`; a module without a name has its parameters at the top.
pub(crate) fn below(name: &str, part: &str) -> String {
    if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") }
}

/// Numbers of the rows `indices` `[a, .., k]` of `b` sequences of `n` rows in the flat table `[b n, ..]`. An index of `n` or
/// more stands for no row: it is past the table's end, where gather gives zeros and scatter drops. Entry i of the first
/// dimension is about sequence `samples[i]` (u32 `[a]`), or i.
pub(crate) fn flat<'g>(indices: Var<'g>, b: usize, n: usize, samples: Option<Var<'g>>) -> Var<'g> {
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
