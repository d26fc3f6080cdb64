//! The heavy branch of attention: routed queries attend to routed keys, and go back to their places.

use super::heavy_attention::{Context, HeavyAttention, HeavyAttentionConfig};
use super::router::{Route, Routed, Router, RouterConfig};
use super::rows::{below, put};
use crate::error::Result;
use crate::graph::Var;
use crate::nn::{Init, ParamVars, Params};

/// Options of a [`HeavyBranch`].
pub(super) struct BranchConfig<'a> {
    pub attention: HeavyAttentionConfig,
    pub q_router: &'a RouterConfig,
    pub kv_router: &'a RouterConfig,
    pub routes: usize,
    pub null_q_token: bool,
    pub multiply_queries_by_score: bool,
    pub rotary: bool,
    /// Short sequences are not routed by any kind of router.
    pub whole_if_short: bool,
}

/// Routers, attention and what stands where no query was routed. Parameters: `q_router.*`, `kv_router.*`, `heavy_attn.*`,
/// `null_q_token` `[D]`, and the constant `rotary_emb.inv_freq` `[d/2]`.
#[derive(Clone, Debug)]
pub(super) struct HeavyBranch {
    pub q_router: Router,
    pub kv_router: Router,
    pub attention: HeavyAttention,
    pub null_q_token: Option<String>,
    pub multiply_queries_by_score: bool,
    pub rotary: bool,
    /// Short sequences are not routed by any kind of router.
    pub whole_if_short: bool,
}

impl HeavyBranch {
    pub fn new(params: &mut Params, name: &str, config: BranchConfig<'_>) -> Result<Self> {
        let HeavyAttentionConfig { dim, dim_head, .. } = config.attention;
        config.attention.check(config.routes, config.rotary)?;
        let q_router = Router::new(params, &below(name, "q_router"), dim, config.q_router, 1)?;
        let kv_router = Router::new(params, &below(name, "kv_router"), dim, config.kv_router, config.routes)?;
        let attention = HeavyAttention::new(params, &below(name, "heavy_attn"), config.attention)?;
        let null_q_token = config.null_q_token.then(|| below(name, "null_q_token"));
        if let Some(token) = &null_q_token {
            params.add(token, [dim], Init::Normal { std: 1.0 });
        }
        if config.rotary {
            declare_rotary(params, name, dim_head);
        }
        Ok(HeavyBranch {
            q_router,
            kv_router,
            attention,
            null_q_token,
            multiply_queries_by_score: config.multiply_queries_by_score,
            rotary: config.rotary,
            whole_if_short: config.whole_if_short,
        })
    }

    /// `x` `[b, n, D]` to `[b, n, D]`, attending to `context` `[b, m, D]`.
    #[track_caller]
    pub fn forward<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        context: Var<'g>,
        q: &Route<'g>,
        kv: &Route<'g>,
    ) -> Var<'g> {
        // One route of queries, and no dimension for it.
        let q = &Route { keep_one_route_dim: false, ..*q };
        let (queries, keys) = match self.whole_if_short {
            true => (self.q_router.forward_long(p, x, q), self.kv_router.forward_long(p, context, kv)),
            false => (self.q_router.forward(p, x, q), self.kv_router.forward(p, context, kv)),
        };
        self.attend(p, &queries, &keys, x.dim(1), context.dim(1))
    }

    /// Attention of routed queries to routed keys, put back into sequences of `n`; contexts had `m` tokens.
    #[track_caller]
    pub fn attend<'g>(
        &self,
        p: &ParamVars<'g>,
        queries: &Routed<'g>,
        keys: &Routed<'g>,
        n: usize,
        m: usize,
    ) -> Var<'g> {
        let positions = |routed: &Routed<'g>, n: usize| {
            self.rotary.then(|| routed.indices.unwrap_or_else(|| p.graph().iota([n], 0)))
        };
        let context = Context {
            tokens: Some(keys.tokens),
            mask: keys.mask,
            scores: keys.indices.map(|_| keys.scores),
            positions: positions(keys, m),
        };
        let scores = queries.indices.filter(|_| self.multiply_queries_by_score).map(|_| queries.scores);
        let out = self.attention.forward(p, queries.tokens, scores, positions(queries, n), &context);
        self.place(p, out, queries, n)
    }

    /// Puts the results `[b, k, D]` of routed queries, times their scores, back into sequences of `n`.
    pub fn place<'g>(&self, p: &ParamVars<'g>, out: Var<'g>, queries: &Routed<'g>, n: usize) -> Var<'g> {
        let Some(indices) = queries.indices else { return out };
        let out = out * queries.scores.unsqueeze(2);
        let rest = self.null_q_token.as_ref().map(|name| p.get(name));
        put(out, indices, n, rest, self.q_router.repeats())
    }
}

/// Adds the constant frequencies of the rotary embedding. They are in checkpoints; the operation has its own.
pub(super) fn declare_rotary(params: &mut Params, name: &str, dim_head: usize) {
    let freqs = (0..dim_head / 2).map(|m| 10_000f64.powf(-2.0 * m as f64 / dim_head as f64) as f32).collect();
    params.add(below(name, "rotary_emb.inv_freq"), [dim_head / 2], Init::Values(freqs)).buffer();
}
