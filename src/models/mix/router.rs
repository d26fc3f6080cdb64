//! Choosing tokens of a segment without looking ahead.

use super::config::MemoryConfig;
use crate::graph::Var;
use crate::models::parts::{below, flat};
use crate::nn::{Init, ParamVars, Params};
use crate::ops::route::soft_top_k::{SoftCount, SoftTopK};

/// A causal router by coordinate descent. CoLT5's (Ainslie et al. 2023, arXiv 2303.09752) picks the k tokens of largest score
/// out of a whole sequence, so that what is done with a token depends on later ones. Here token i of a segment of W is picked
/// if it is among the `ceil(k (i + 1) / W)` best of the tokens up to itself, and fewer than k were picked before it. Its gate is
/// its soft score among the same tokens: 1, with that gradient.
///
/// Scores are the square root of D times the cosine of token and routing token. Parameter `routing_token` `[D]` below its name.
#[derive(Clone, Debug)]
pub(super) struct CausalRouter {
    token: String,
    segment: usize,
    most: usize,
}

/// Tokens of a segment.
#[derive(Clone, Copy)]
pub(super) struct Chosen<'g> {
    /// Places in the segment, u32 `[b, k]`, in order; the segment's length where no more were picked.
    pub indices: Var<'g>,
    /// Gates `[b, k]`.
    gates: Var<'g>,
}

impl CausalRouter {
    /// Adds the parameter below `name`; picks `most` tokens of a segment at most.
    pub fn new(params: &mut Params, name: &str, config: &MemoryConfig, most: usize) -> Self {
        let token = below(name, "routing_token");
        params.add(&token, [config.dim], Init::Normal { std: 1.0 });
        CausalRouter { token, segment: config.segment, most: most.min(config.segment) }
    }

    /// Picks tokens of `x` `[b, n, D]`, n up to a segment.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Chosen<'g> {
        let (g, b, n, d) = (x.graph(), x.dim(0), x.dim(1), x.dim(2));
        let token = p.get(&self.token).reshape([d, 1]) * (d as f64).sqrt();
        let length = p.get(&self.token).square().sum_all().maximum(1e-24).sqrt();
        let scores = x.l2_normalize(1e-12).reshape([b * n, d]).matmul(token) / length;
        let scores = scores.reshape([b, n]);
        let square = [b, n, n];
        let (own, other) = (scores.unsqueeze(2).expand(square), scores.unsqueeze(1).expand(square));
        let (i, j) = (g.iota(square, 1), g.iota(square, 2));
        let better = other.gt(own).or(other.eq(own).and(j.lt(i))).and(j.le(i));
        let rank = better.to_f32().sum(2).reshape([b, n]);
        // ceil(k (i + 1) / W)
        let w = self.segment as u32;
        let count = ((g.iota([b, n], 1) + 1) * self.most as u32 + (w - 1)) / w;
        let fits = rank.lt(count.to_f32());
        let before = fits.to_f32().cumsum_exclusive(1);
        let picked = fits.and(before.lt(self.most as f64));
        let soft = other.soft_top_k(SoftCount::PerRow(count.to_f32()), &SoftTopK::learnable(), Some(j.le(i)));
        let soft = soft.take_along(g.iota([b, n, 1], 1), 2).reshape([b, n]);
        let k = self.most.min(n);
        // The first ones in order: scores fall with the place.
        let first = (g.iota([b, n], 1).to_f32() * -1.0).top_k_masked(k, picked).indices;
        let there = picked.take_along(first, 1);
        let gates = g.full([b, k], 1.0).straight_through(soft.take_along(first, 1));
        Chosen { indices: there.select(first, g.full_u32([], n as u32)), gates: gates.masked_fill(there, 0.0) }
    }
}

impl<'g> Chosen<'g> {
    /// The tokens of `x` `[b, n, D]`: `[b, k, D]`, zeros where no more were picked.
    #[track_caller]
    pub fn take(&self, x: Var<'g>) -> Var<'g> {
        let (b, n, d) = (x.dim(0), x.dim(1), x.dim(2));
        x.reshape([b * n, d]).gather(flat(self.indices, b, n, None))
    }

    /// `rows` `[b, k, D]`, times the gates, at their places in a segment of `n`; zeros elsewhere.
    #[track_caller]
    pub fn put(&self, rows: Var<'g>, n: usize) -> Var<'g> {
        let (b, k, d) = (rows.dim(0), rows.dim(1), rows.dim(2));
        let at = flat(self.indices, b, n, None).reshape([b * k]);
        let rows = rows * self.gates.unsqueeze(2);
        rows.reshape([b * k, d]).scatter_add(at, b * n).reshape([b, n, d])
    }
}
