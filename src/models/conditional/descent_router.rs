//! The router of CoLT5: a soft top-k of the scores of the tokens against a routing token.

use super::heavy_attention::{Context, HeavyAttention, HeavyAttentionConfig};
use super::router::{Route, Routed, Selection, check_call, normalized};
use super::rows::{below, expect, numbers, refuse};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{Init, ParamVars, Params};
use crate::ops::route::soft_top_k::{SoftCount, SoftTopK, Start};
use crate::types::TensorType;

/// How a routing token looks at the tokens before it scores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceAttention {
    /// Number of heads.
    pub heads: usize,
    /// Features of a head.
    pub dim_head: usize,
}

/// What the score of a token against a routing token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Similarity {
    /// The dot product, of raw tokens: as the package does it.
    Dot,
    /// So many times the cosine: the package's `cosine_sim_routing`, with its `cosine_sim_scale`.
    Cosine {
        /// Times what; the package's default is 8.
        scale: f64,
    },
    /// The square root of the width times the cosine: scores have a deviation of 1 as long as the routing token knows
    /// nothing of the tokens.
    UnitCosine,
}

impl Similarity {
    /// Factor of the cosine.
    pub(super) fn scale(self, dim: usize) -> Option<f64> {
        match self {
            Similarity::Dot => None,
            Similarity::Cosine { scale } => Some(scale),
            Similarity::UnitCosine => Some((dim as f64).sqrt()),
        }
    }
}

/// Options of a [`CoordinateDescentRouter`].
#[derive(Clone, Debug)]
pub struct CoordinateDescentRouterConfig {
    /// Scores of selected tokens are 1, with the gradient of the soft ones.
    pub straight_through: bool,
    /// How the soft top-k is found.
    pub how: SoftTopK,
    /// The soft top-k is of so many times the tokens that are routed, but no more than there are; at least 1.
    pub fetch_k_ratio: f64,
    /// Number of routing tokens, each with a selection of its own.
    pub num_routing_tokens: usize,
    /// The caller passes the routing tokens; the router has no parameters.
    pub learned_routing_tokens: bool,
    /// What scores are made of.
    pub similarity: Similarity,
    /// Route evenly in blocks of so many tokens; a rest that fills no block is not routed. A sequence shorter than a
    /// block is a block.
    pub route_block_size: Option<usize>,
    /// The routing tokens first query the tokens in cross attention, so that they know what there is. The package's author
    /// wished for this and did not build it.
    pub source_attention: Option<SourceAttention>,
    /// As versions 0.8.1 to 0.11.2 do it: with r > 1 routing tokens, sample i gets the tokens and the mask of sample
    /// `i / r` at the places selected for itself. Only for models trained that way.
    pub gather_across_samples: bool,
    /// As versions 0.2.x do it: a sequence of exactly as many tokens as are routed goes through the soft top-k as well, so
    /// that its scores have a gradient and, without straight-through, are not 1. Cross attention does not do so there either.
    pub route_equal: bool,
}

impl Default for CoordinateDescentRouterConfig {
    /// A router that learns: [`SoftTopK::learnable`] of scores of deviation 1, of as many tokens as are routed. With the
    /// package's own defaults, [`reference`](Self::reference), thousands of scores of a long sequence saturate at 1, where
    /// their gradient is 0.
    fn default() -> Self {
        CoordinateDescentRouterConfig {
            how: SoftTopK::learnable(),
            similarity: Similarity::UnitCosine,
            fetch_k_ratio: 1.0,
            ..Self::reference()
        }
    }
}

impl CoordinateDescentRouterConfig {
    /// The defaults of version 0.11.2 of the package, for its checkpoints.
    pub fn reference() -> Self {
        CoordinateDescentRouterConfig {
            straight_through: true,
            how: SoftTopK::reference(),
            fetch_k_ratio: 9.0 / 8.0,
            num_routing_tokens: 1,
            learned_routing_tokens: false,
            similarity: Similarity::Dot,
            route_block_size: None,
            source_attention: None,
            gather_across_samples: false,
            route_equal: false,
        }
    }

    /// The defaults of versions 0.2.x: 50 iterations from `max(s, 0)` with epsilon 1.
    pub fn version_0_2() -> Self {
        CoordinateDescentRouterConfig {
            how: SoftTopK::iterations(50, 1.0).starting(Start::Relu),
            route_equal: true,
            ..Self::reference()
        }
    }

    /// Refuses values no router can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be.
    pub fn check(&self) -> Result<()> {
        let refuse =
            |what: &str, message: &str| Err(Error::argument(format!("CoordinateDescentRouterConfig::{what}"), message));
        if !(self.fetch_k_ratio >= 1.0 && self.fetch_k_ratio.is_finite()) {
            return refuse("fetch_k_ratio", &format!("is {}; expected at least 1", self.fetch_k_ratio));
        }
        if let Some(fault) = self.how.fault() {
            return refuse("how", &fault);
        }
        if self.num_routing_tokens == 0 {
            return refuse("num_routing_tokens", "is 0; expected at least 1");
        }
        if self.route_block_size == Some(0) {
            return refuse("route_block_size", "is 0; expected at least 1, or none");
        }
        if matches!(self.similarity, Similarity::Cosine { scale } if !(scale.is_finite() && scale > 0.0)) {
            return refuse("similarity", "has a scale that is no positive number");
        }
        Ok(())
    }
}

/// Routes the k tokens of largest score `<token, routing token>`. Their soft scores are those of a soft top-k by coordinate
/// descent (Wright 2015, arXiv 1502.04759; in CoLT5, Ainslie et al. 2023, arXiv 2303.09752): they carry the gradient to the
/// routing token.
///
/// The selection is by the raw scores, in whose order the soft ones are: where soft scores tie, tokens that exist come
/// first, then those of larger raw score, then those of lower index. Parameters below its name: `routing_token` `[r, D]`,
/// and `routing_attn.*` (a [`HeavyAttention`]) with source attention.
#[derive(Clone, Debug)]
pub struct CoordinateDescentRouter {
    config: CoordinateDescentRouterConfig,
    dim: usize,
    routing_token: Option<String>,
    source: Option<HeavyAttention>,
}

/// A selection among rows of scores.
#[derive(Clone, Copy)]
pub(super) struct Rows<'g> {
    /// Scores `[b, r, n]`.
    pub raw: Var<'g>,
    /// Tokens that exist, `[b, r, n]`.
    pub mask: Option<Var<'g>>,
    /// How many are selected.
    pub num_tokens: usize,
    /// How many count, u32 `[b]`.
    pub counts: Option<Var<'g>>,
    /// k of the soft top-k, f32 `[b]`, where it is not what `num_tokens` and `counts` say.
    pub soft_count: Option<Var<'g>>,
    /// Select at random, from this site.
    pub random: Option<u32>,
}

impl CoordinateDescentRouter {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`CoordinateDescentRouterConfig::check`].
    pub fn new(params: &mut Params, name: &str, dim: usize, config: CoordinateDescentRouterConfig) -> Result<Self> {
        config.check()?;
        let routing_token = (!config.learned_routing_tokens).then(|| below(name, "routing_token"));
        if let Some(token) = &routing_token {
            params.add(token, [config.num_routing_tokens, dim], Init::Normal { std: 1.0 });
        }
        let source = match config.source_attention {
            Some(SourceAttention { heads, dim_head }) => {
                let attention = HeavyAttentionConfig { heads, dim_head, ..HeavyAttentionConfig::new(dim) };
                Some(HeavyAttention::new(params, &below(name, "routing_attn"), attention)?)
            }
            None => None,
        };
        Ok(CoordinateDescentRouter { config, dim, routing_token, source })
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// The options.
    pub fn config(&self) -> &CoordinateDescentRouterConfig {
        &self.config
    }

    /// Whether the routing tokens query the tokens first.
    pub(super) fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// Routing tokens before they look at any token, `[1, r, D]`; those that are passed `[b, r, D]`.
    pub(super) fn own_tokens<'g>(&self, p: &ParamVars<'g>, b: usize, route: &Route<'g>) -> Var<'g> {
        let (g, r, d) = (p.graph(), self.config.num_routing_tokens, self.dim);
        let own = match (&self.routing_token, route.routing_tokens) {
            (Some(name), None) => p.get(name).unsqueeze(0),
            (None, Some(tokens)) if tokens.rank() == 2 && r == 1 => tokens.unsqueeze(1),
            (None, Some(tokens)) => tokens,
            (own, _) => {
                let message = match own {
                    Some(_) => "given, but the router has its own; pass none",
                    None => "missing; the router was made for tokens that the caller passes",
                };
                refuse(g, "router: routing_tokens", message);
                return g.full([1, r, d], 0.0);
            }
        };
        let batch = if self.routing_token.is_some() { 1 } else { b };
        expect(g, "router: routing_tokens", own, &TensorType::f32([batch, r, d]));
        own
    }

    /// Routing tokens `[1 or b, r, D]`.
    fn tokens<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &Route<'g>) -> Var<'g> {
        let b = x.dim(0);
        let own = self.own_tokens(p, b, route);
        let Some(source) = &self.source else { return own };
        let own = own.expand([b, self.config.num_routing_tokens, self.dim]);
        let context = Context { tokens: Some(x), mask: route.mask, ..Context::default() };
        own + source.forward(p, own, None, None, &context)
    }

    /// Scores `[b, r, n]` of the tokens `x` `[b, n, D]`, what the soft top-k is of.
    #[track_caller]
    pub fn scores<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &Route<'g>) -> Var<'g> {
        let mut tokens = self.tokens(p, x, route);
        let mut x = x;
        let scale = self.config.similarity.scale(self.dim);
        if scale.is_some() {
            (tokens, x) = (tokens.l2_normalize(1e-12), x.l2_normalize(1e-12));
        }
        let scores = match tokens.dim(0) == x.dim(0) && tokens.dim(0) != 1 {
            true => tokens.matmul(x.transpose(1, 2)),
            // The same tokens for all: one product over all rows.
            false => x.matmul(tokens.reshape([tokens.dim(1), self.dim]).transpose(0, 1)).transpose(1, 2),
        };
        match scale {
            Some(scale) => scores * scale,
            None => scores,
        }
    }

    /// Blocks of a sequence of `n`: their number and length.
    fn blocks(&self, n: usize) -> (usize, usize) {
        match self.config.route_block_size {
            Some(width) if n >= width => (n / width, width),
            _ => (1, n),
        }
    }

    /// k of the soft top-k in each block, where `k` tokens are selected in each.
    fn soft_count<'g>(&self, rows: &Rows<'g>, k: usize, blocks: usize, width: usize) -> SoftCount<'g> {
        let (b, r) = (rows.raw.dim(0), rows.raw.dim(1));
        let ratio = self.config.fetch_k_ratio;
        let count = match (rows.soft_count, rows.counts) {
            (Some(count), _) => count,
            (None, None) => return SoftCount::Fixed((k as f64 * ratio).min(width as f64)),
            (None, Some(counts)) => {
                let each = in_each(counts, blocks).minimum(rows.raw.graph().full_u32([], k as u32));
                (each.to_f32() * ratio).minimum(width as f64)
            }
        };
        SoftCount::PerRow(count.reshape([b, 1, 1]).expand([b, r, blocks]))
    }

    /// Selects among rows of scores; indices are those in the row, n for those that do not count.
    #[track_caller]
    pub(super) fn select<'g>(&self, rows: &Rows<'g>) -> Selection<'g> {
        let g = rows.raw.graph();
        let (b, r, n) = (rows.raw.dim(0), rows.raw.dim(1), rows.raw.dim(2));
        let (blocks, width) = self.blocks(n);
        let k = rows.num_tokens.div_ceil(blocks).min(width);
        let cut = |v: Var<'g>| v.slice(2, 0, blocks * width).reshape([b, r, blocks, width]);
        let (raw, mask) = (cut(rows.raw), rows.mask.map(cut));
        let by = rows.random.map_or(raw, |site| g.uniform([b, r, blocks, width], site));
        let indices = match mask {
            Some(mask) => by.top_k_masked(k, mask).indices,
            None => by.top_k(k).indices,
        };
        let exists = mask.map(|mask| mask.take_along(indices, 3));
        let mut scores = match rows.random {
            Some(_) => exists.map_or_else(|| g.full(indices.shape(), 1.0), |mask| mask.ne(0).to_f32()),
            None => {
                let soft = raw.soft_top_k(self.soft_count(rows, k, blocks, width), &self.config.how, mask);
                normalized(soft.take_along(indices, 3), exists, self.config.straight_through)
            }
        };
        let mut indices = indices + g.iota([b, r, blocks, k], 2) * width as u32;
        if let Some(counts) = rows.counts {
            let counted = g.iota([b, r, blocks, k], 3).lt(in_each(counts, blocks).reshape([b, 1, 1, 1]));
            scores = scores.keep_where(counted, 0.0);
            indices = counted.select(indices, g.full_u32([], n as u32));
        }
        Selection { indices: indices.reshape([b, r, blocks * k]), scores: scores.reshape([b, r, blocks * k]) }
    }

    /// Routes tokens of `x` `[b, n, D]`.
    ///
    /// A sequence of no more than `num_tokens` tokens is not routed, unless there are counts (or `route_equal`). In blocks, each block routes
    /// `ceil(num_tokens / blocks)` tokens, no more than it has; the results follow one another. If fewer tokens exist than
    /// are routed, masked ones fill up with score 0; a sequence that is all masked gives its first tokens with score 0.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &Route<'g>) -> Routed<'g> {
        check_call("router", x, self.dim, route);
        let (b, n, r) = (x.dim(0), x.dim(1), self.config.num_routing_tokens);
        let whole = n < route.num_tokens || n == route.num_tokens && !self.config.route_equal;
        let routed = if whole && route.counts.is_none() {
            Routed::whole(x, route.mask, r)
        } else {
            let rows = Rows {
                raw: self.scores(p, x, route),
                mask: route.mask.map(|mask| mask.unsqueeze(1).expand([b, r, n])),
                num_tokens: route.num_tokens,
                counts: route.counts,
                soft_count: None,
                random: route.random_route.then_some(route.site),
            };
            self.gather(self.select(&rows), x, route)
        };
        if r == 1 && !route.keep_one_route_dim { routed.one_route() } else { routed }
    }

    fn gather<'g>(&self, selection: Selection<'g>, x: Var<'g>, route: &Route<'g>) -> Routed<'g> {
        let g = x.graph();
        let mask = match route.counts {
            Some(_) if route.mask.is_none() => Some(g.full_u32([x.dim(0), x.dim(1)], 1)),
            _ => route.mask,
        };
        Routed::gather(selection, x, mask, self.source_rows(x.dim(0)).map(|row| numbers(g, x.dim(0), row)))
    }

    /// The row of the batch whose tokens a row gets, where that is not its own.
    pub(super) fn source_rows(&self, rows: usize) -> Option<impl Fn(usize) -> usize> {
        let r = self.config.num_routing_tokens;
        (self.config.gather_across_samples && r > 1 && rows > 1).then_some(move |row| row / r)
    }
}

/// Counts `[b]` cut evenly into blocks, rounded up.
fn in_each<'g>(counts: Var<'g>, blocks: usize) -> Var<'g> {
    match blocks {
        1 => counts,
        _ => (counts + (blocks - 1) as u32) / blocks as u32,
    }
}
