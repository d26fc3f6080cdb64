//! Choosing tokens of a segment without looking ahead.

use super::config::MemoryConfig;
use crate::graph::Var;
use crate::models::parts::{below, flat};
use crate::nn::{Init, ParamVars, Params};
use crate::ops::route::soft_top_k::{SoftCount, SoftTopK};
use crate::types::TensorType;

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

/// Tokens beside those of their segment, `[b, n, m]`.
struct Ranked<'g> {
    /// Scores of the segment's tokens.
    scores: Var<'g>,
    /// Those up to the token itself.
    seen: Var<'g>,
    /// How many of them may be picked, `[b, n]`.
    count: Var<'g>,
    /// Whether the token is among the best so many, u32 0/1 `[b, n]`.
    fits: Var<'g>,
}

impl CausalRouter {
    /// Adds the parameter below `name`; picks `most` tokens of a segment at most.
    pub fn new(params: &mut Params, name: &str, config: &MemoryConfig, most: usize) -> Self {
        let token = below(name, "routing_token");
        params.add(&token, [config.dim], Init::Normal { std: 1.0 });
        CausalRouter { token, segment: config.segment, most: most.min(config.segment) }
    }

    /// Scores `[b, n]` of tokens `x` `[b, n, D]`.
    #[track_caller]
    fn scores<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        let (b, n, d) = (x.dim(0), x.dim(1), x.dim(2));
        let token = p.get(&self.token).reshape([d, 1]) * (d as f64).sqrt();
        let length = p.get(&self.token).square().sum_all().maximum(1e-24).sqrt();
        let scores = x.l2_normalize(1e-12).reshape([b * n, d]).matmul(token) / length;
        scores.reshape([b, n])
    }

    /// Compares tokens of scores `own` `[b, n]` at `place` (u32 `[b, n]`) with those of the segment, of scores `all` `[b, m]`.
    fn rank<'g>(&self, own: Var<'g>, all: Var<'g>, place: Var<'g>) -> Ranked<'g> {
        let (g, b, n, m) = (own.graph(), own.dim(0), own.dim(1), all.dim(1));
        let square = [b, n, m];
        let (own, other) = (own.unsqueeze(2).expand(square), all.unsqueeze(1).expand(square));
        let (i, j) = (place.unsqueeze(2).expand(square), g.iota(square, 2));
        let better = other.gt(own).or(other.eq(own).and(j.lt(i))).and(j.le(i));
        let rank = better.to_f32().sum(2).reshape([b, n]);
        // ceil(k (i + 1) / W)
        let w = self.segment as u32;
        let count = (((place + 1) * self.most as u32 + (w - 1)) / w).to_f32();
        Ranked { scores: other, seen: j.le(i), fits: rank.lt(count), count }
    }

    /// Picks tokens of `x` `[b, n, D]`, n up to a segment.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Chosen<'g> {
        let (g, b, n) = (x.graph(), x.dim(0), x.dim(1));
        let (scores, place) = (self.scores(p, x), g.iota([b, n], 1));
        let Ranked { scores, seen, count, fits } = self.rank(scores, scores, place);
        let before = fits.to_f32().cumsum_exclusive(1);
        let soft = scores.soft_top_k(SoftCount::PerRow(count), &SoftTopK::learnable(), Some(seen));
        let soft = soft.take_along(place.unsqueeze(2), 2).reshape([b, n]);
        self.choose(fits.and(before.lt(self.most as f64)), Some(soft))
    }

    /// Names and types of what tokens that come next are compared with: scores of the segment's tokens so far, and which of
    /// them were among the best of their time. What is in it at the start of a segment does not matter.
    pub fn cache(&self, batch: usize) -> [(&'static str, TensorType); 2] {
        ["scores", "fits"].map(|part| (part, TensorType::f32([batch, self.segment, 1])))
    }

    /// [`forward`](Self::forward) for the tokens `x` `[b, n, D]` that follow `length` (u32 `[b]`) ones of the segment, without
    /// gradients, and the cache with them in it: whether a token is picked does not depend on later ones.
    #[track_caller]
    pub fn forward_cached<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        length: Var<'g>,
        cache: &[Var<'g>],
    ) -> (Chosen<'g>, Vec<Var<'g>>) {
        let (g, b, n) = (x.graph(), x.dim(0), x.dim(1));
        let (own, place) = (self.scores(p, x), length.reshape([b, 1]) + g.iota([b, n], 1));
        let &[scores, fits] = cache else { return (self.choose(own.gt(own), None), Vec::new()) };
        let scores = scores.write_rows(own.unsqueeze(2), length);
        let ranked = self.rank(own, scores.reshape([b, self.segment]), place);
        let fits = fits.write_rows(ranked.fits.to_f32().unsqueeze(2), length);
        let square = [b, n, self.segment];
        let earlier = g.iota(square, 2).lt(place.unsqueeze(2).expand(square)).to_f32();
        let before = (earlier * fits.reshape([b, 1, self.segment])).sum(2).reshape([b, n]);
        (self.choose(ranked.fits.and(before.lt(self.most as f64)), None), vec![scores, fits])
    }

    /// The tokens marked in `picked` u32 `[b, n]`, with gates of 1 that have the gradient of the soft scores.
    fn choose<'g>(&self, picked: Var<'g>, soft: Option<Var<'g>>) -> Chosen<'g> {
        let (g, b, n) = (picked.graph(), picked.dim(0), picked.dim(1));
        let k = self.most.min(n);
        // The first ones in order: scores fall with the place.
        let first = (g.iota([b, n], 1).to_f32() * -1.0).top_k_masked(k, picked).indices;
        let there = picked.take_along(first, 1);
        let gates = match soft {
            Some(soft) => g.full([b, k], 1.0).straight_through(soft.take_along(first, 1)).keep_where(there, 0.0),
            None => there.to_f32(),
        };
        Chosen { indices: there.select(first, g.full_u32([], n as u32)), gates }
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
