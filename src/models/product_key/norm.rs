//! Norms of the layer.

use crate::graph::{Mode, Var};
use crate::models::parts::below;
use crate::nn::{Init, ParamVars, Params};

const EPS: f64 = 1e-5;
/// Share of a batch in the running statistics, as in PyTorch.
const MOMENTUM: f64 = 0.1;

/// Adds weight and bias of a norm.
pub(super) fn declare_norm(params: &mut Params, name: &str, width: usize) {
    params.add(below(name, "weight"), [width], Init::Ones);
    params.add(below(name, "bias"), [width], Init::Zeros);
}

/// LayerNorm over the last axis.
pub(super) fn layer_norm<'g>(p: &ParamVars<'g>, name: &str, x: Var<'g>) -> Var<'g> {
    x.layer_norm(p.get(&below(name, "weight")), p.get(&below(name, "bias")), EPS)
}

/// Adds what batch norm has besides weight and bias.
pub(super) fn declare_batch_norm(params: &mut Params, name: &str, width: usize) {
    declare_norm(params, name, width);
    params.add(below(name, "running_mean"), [width], Init::Zeros).buffer();
    params.add(below(name, "running_var"), [width], Init::Ones).buffer();
    params.add(below(name, "num_batches_tracked"), [], Init::Zeros).buffer();
}

/// Batch norm (Ioffe and Szegedy 2015, arXiv 1502.03167) of rows `[n, d]` over the rows that `mask` (f32 0/1 `[n, 1]`) marks.
///
/// In training by the mean and biased variance of the batch, which go into the running ones (the variance unbiased) with
/// weight 0.1 if two rows count; in evaluation by the running ones. Rows that do not count are normalised like the others.
pub(super) fn batch_norm<'g>(p: &ParamVars<'g>, name: &str, x: Var<'g>, mask: Option<Var<'g>>, mode: Mode) -> Var<'g> {
    let (n, d) = (x.dim(0), x.dim(1));
    let part = |what: &str| below(name, what);
    let affine =
        |mean: Var<'g>, var: Var<'g>| (x - mean) / (var + EPS).sqrt() * p.get(&part("weight")) + p.get(&part("bias"));
    let (old_mean, old_var) = (p.get(&part("running_mean")), p.get(&part("running_var")));
    if mode == Mode::Eval {
        return affine(old_mean, old_var);
    }
    let g = x.graph();
    let count = mask.map_or(g.full([], n as f64), |m| m.sum_all());
    let kept = |v: Var<'g>| mask.map_or(v, |m| v * m);
    let average = |v: Var<'g>| kept(v).sum(0) / count.maximum(1.0);
    let mean = average(x);
    let var = average((x - mean).square());
    let enough = count.gt(1.0);
    let unbiased = var * (count / (count - 1.0).maximum(1.0));
    let keep = |what: &str, old: Var<'g>, new: Var<'g>| {
        let new = new.stop_gradient().reshape([d]) * MOMENTUM + old * (1.0 - MOMENTUM);
        p.assign(&part(what), enough.select(new, old));
    };
    keep("running_mean", old_mean, mean);
    keep("running_var", old_var, unbiased);
    let batches = p.get(&part("num_batches_tracked"));
    p.assign(&part("num_batches_tracked"), batches + enough.to_f32());
    affine(mean, var)
}
