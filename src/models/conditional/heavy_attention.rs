//! Attention of the heavy branch: routed queries to routed keys, each group of heads to its own route.

use super::rows::{below, expect, refuse, within};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{Init, Linear, ParamVars, Params};
use crate::ops::attention::Attention;
use crate::ops::attention::descent::DescentAttention;
use crate::ops::rotary::{Pairs, Rotary};
use crate::ops::route::soft_top_k::SoftTopK;
use crate::types::TensorType;

/// Soft top-k over the keys in place of the softmax: coordinate-descent attention.
#[derive(Clone, Debug, PartialEq)]
pub struct DescentKeys {
    /// Keys that a query attends to: their weights sum to about k, at most 1 on each.
    pub k: f64,
    /// The soft top-k.
    pub how: SoftTopK,
    /// Divide the weights of a query by their sum.
    pub normalize: bool,
}

/// Options of [`HeavyAttention`].
#[derive(Clone, Debug)]
pub struct HeavyAttentionConfig {
    /// Features of a token.
    pub dim: usize,
    /// Number of heads; a multiple of the routes of a context.
    pub heads: usize,
    /// Features of a head; even where positions are given.
    pub dim_head: usize,
    /// Scores multiply keys as well as values.
    pub multiply_keys_by_score: bool,
    /// One learned key and value a head that every query sees; absent in versions 0.2.x.
    pub null_kv: bool,
    /// Soft top-k over the keys in place of the softmax.
    pub descent: Option<DescentKeys>,
}

impl HeavyAttentionConfig {
    /// Eight heads of 64 features with null keys.
    pub fn new(dim: usize) -> Self {
        HeavyAttentionConfig {
            dim,
            heads: 8,
            dim_head: 64,
            multiply_keys_by_score: false,
            null_kv: true,
            descent: None,
        }
    }

    /// Refuses values no module can have; contexts have `routes` routes, and positions if `rotary`.
    pub(in crate::models) fn check(&self, routes: usize, rotary: bool) -> Result<()> {
        let refuse = |what: &str, message: String| Err(Error::argument(format!("heavy attention: {what}"), message));
        for (what, value) in [("dim", self.dim), ("heads", self.heads), ("dim_head", self.dim_head), ("routes", routes)]
        {
            if value == 0 {
                return refuse(what, "is 0; expected at least 1".into());
            }
        }
        within("heavy attention: to_kv.weight", &[2, self.heads, self.dim_head, self.dim])?;
        if !self.heads.is_multiple_of(routes) {
            return refuse("heads", format!("{} heads cannot be shared evenly by {routes} routes", self.heads));
        }
        if self.descent.as_ref().is_some_and(|d| !(d.k > 0.0 && d.k.is_finite())) {
            return refuse("descent", "k is no positive number".into());
        }
        if let Some(fault) = self.descent.as_ref().and_then(|d| d.how.fault()) {
            return refuse("descent", fault);
        }
        if rotary && !self.dim_head.is_multiple_of(2) {
            let message = format!("{} is odd; the rotary embedding turns pairs of features", self.dim_head);
            return refuse("dim_head", message);
        }
        Ok(())
    }
}

/// What the queries attend to. Without a context they attend to their own tokens. A context with a batch of one serves all
/// samples of the queries.
#[derive(Clone, Copy, Default)]
pub struct Context<'g> {
    /// Tokens `[b, m, D]`, or `[b, r, m, D]` with r routes: heads `i h/r ..` see route i.
    pub tokens: Option<Var<'g>>,
    /// Tokens that may be seen, u32 0/1 `[b, m]` or `[b, r, m]`.
    pub mask: Option<Var<'g>>,
    /// Multiply the values, `[b, m]` or `[b, r, m]`.
    pub scores: Option<Var<'g>>,
    /// Positions for the rotary embedding, u32 `[m]`, `[b, m]` or `[b, r, m]`.
    pub positions: Option<Var<'g>>,
}

/// Keys and values of a context, `[b, h, m, d]`, and which may be seen, `[b, r, m]`; without null keys.
#[derive(Clone, Copy)]
pub(in crate::models) struct Keys<'g> {
    pub k: Var<'g>,
    pub v: Var<'g>,
    pub mask: Option<Var<'g>>,
    pub routes: usize,
}

/// Multi-head attention of the heavy branch. The matrix of scores is never stored. Parameters below its name:
/// `norm.gamma` `[D]` (RMS norm of queries and context alike), `null_kv` `[2, h, d]`, `to_q.weight` `[h d, D]`, `to_kv.weight`
/// `[2 h d, D]` (per head d rows of keys, then d rows of values), `to_out.weight` `[D, h d]`.
#[derive(Clone, Debug)]
pub struct HeavyAttention {
    config: HeavyAttentionConfig,
    gamma: String,
    null_kv: Option<String>,
    to_q: Linear,
    to_kv: String,
    to_out: Linear,
}

impl HeavyAttention {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn new(params: &mut Params, name: &str, config: HeavyAttentionConfig) -> Result<Self> {
        config.check(1, false)?;
        let HeavyAttentionConfig { dim, heads, dim_head, .. } = config.clone();
        let inner = heads * dim_head;
        let gamma = below(name, "norm.gamma");
        params.add(&gamma, [dim], Init::Ones);
        let null_kv = config.null_kv.then(|| below(name, "null_kv"));
        if let Some(null_kv) = &null_kv {
            params.add(null_kv, [2, heads, dim_head], Init::Normal { std: 1.0 });
        }
        let to_q = Linear::new(params, &below(name, "to_q"), dim, inner, false);
        let to_kv = below(name, "to_kv.weight");
        params.add(&to_kv, [2 * inner, dim], Init::Uniform { bound: 1.0 / (dim as f32).sqrt() });
        let to_out = Linear::new(params, &below(name, "to_out"), inner, dim, false);
        Ok(HeavyAttention { config, gamma, null_kv, to_q, to_kv, to_out })
    }

    fn rotary() -> Rotary {
        Rotary { pairs: Pairs::Half, ..Rotary::default() }
    }

    /// Queries `[b, h, n, d]` of `x` `[b, n, D]`, times their scores `[b, n]`, turned to their positions.
    #[track_caller]
    pub(in crate::models) fn queries<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        scores: Option<Var<'g>>,
        positions: Option<Var<'g>>,
    ) -> Var<'g> {
        let (b, n) = (x.dim(0), x.dim(1));
        let HeavyAttentionConfig { heads, dim_head, .. } = self.config;
        let x = x.rms_norm(p.get(&self.gamma));
        let mut q = self.to_q.forward(p, x).reshape([b, n, heads, dim_head]).permute(&[0, 2, 1, 3]);
        if let Some(scores) = scores {
            expect(x.graph(), "heavy attention: scores of the queries", scores, &TensorType::f32([b, n]));
            q = q * scores.reshape([b, 1, n, 1]);
        }
        match positions {
            Some(positions) => q.rotary(positions, &Self::rotary()),
            None => q,
        }
    }

    /// Keys and values of a context with tokens.
    #[track_caller]
    pub(in crate::models) fn keys<'g>(&self, p: &ParamVars<'g>, tokens: Var<'g>, c: &Context<'g>) -> Keys<'g> {
        let graph = tokens.graph();
        let HeavyAttentionConfig { heads, dim_head: d, dim, .. } = self.config;
        let tokens = if tokens.rank() == 3 { tokens.unsqueeze(1) } else { tokens };
        let (b, r, m) = (tokens.dim(0), tokens.dim(1), tokens.dim(2));
        if r == 0 || !heads.is_multiple_of(r) {
            let message = format!("{heads} heads cannot be shared evenly by {r} routes");
            refuse(graph, "heavy attention", message);
            return Keys { k: tokens, v: tokens, mask: None, routes: 1 };
        }
        let group = heads / r;
        let tokens = tokens.rms_norm(p.get(&self.gamma));
        let weight = p.get(&self.to_kv).reshape([r, 2 * group * d, dim]).transpose(1, 2);
        let kv = if r == 1 { tokens.matmul(weight.reshape([dim, 2 * heads * d])) } else { tokens.matmul(weight) };
        // Routes are a batch of their own, so that each has its mask.
        let kv = kv.reshape([b * r, m, group, 2, d]);
        let part = |i| kv.select_index(3, i).permute(&[0, 2, 1, 3]);
        let (mut k, mut v) = (part(0), part(1));
        if let Some(scores) = c.scores {
            let scores = scores.reshape([b * r, 1, m, 1]);
            v = v * scores;
            if self.config.multiply_keys_by_score {
                k = k * scores;
            }
        }
        if let Some(positions) = c.positions {
            let own = if positions.rank() == 3 { r } else { 1 };
            let positions = match positions.rank() {
                1 => positions,
                _ => positions.reshape([b, own, m]).expand([b, r, m]).reshape([b * r, m]),
            };
            k = k.rotary(positions, &Self::rotary());
        }
        let whole = |x: Var<'g>| x.reshape([b, heads, m, d]);
        Keys { k: whole(k), v: whole(v), mask: c.mask.map(|mask| mask.reshape([b, r, m])), routes: r }
    }

    /// Attention of queries to keys, and the output projection: `[b, n, D]`.
    #[track_caller]
    pub(in crate::models) fn attend<'g>(&self, p: &ParamVars<'g>, q: Var<'g>, keys: &Keys<'g>) -> Var<'g> {
        let (b, n) = (q.dim(0), q.dim(2));
        let HeavyAttentionConfig { heads, dim_head: d, .. } = self.config;
        let (r, m) = (keys.routes.max(1), keys.k.dim(2));
        let group = heads / r;
        let split = |x: Var<'g>, n: usize| x.expand([b, heads, n, d]).reshape([b * r, group, n, d]);
        let (mut k, mut v) = (split(keys.k, m), split(keys.v, m));
        let mut mask = keys.mask.map(|mask| mask.expand([b, r, m]).reshape([b * r, m]));
        if let Some(name) = &self.null_kv {
            let null = p.get(name).reshape([2, 1, r, group, 1, d]);
            let null = |i| null.select_index(0, i).expand([b, r, group, 1, d]).reshape([b * r, group, 1, d]);
            k = null(0).concat(&[k], 2);
            v = null(1).concat(&[v], 2);
            mask = mask.map(|mask| q.graph().full_u32([b * r, 1], 1).concat(&[mask], 1));
        }
        let (q, attention) = (split(q, n), Attention { mask, ..Attention::default() });
        let out = match &self.config.descent {
            None => q.attention(k, v, &attention).out,
            Some(DescentKeys { k: count, how, normalize }) => {
                let (count, how, normalize) = ((*count).into(), how.clone(), *normalize);
                q.descent_attention(k, v, &DescentAttention { attention, k: count, how, normalize, rows: None })
            }
        };
        let out = out.reshape([b, heads, n, d]).permute(&[0, 2, 1, 3]).reshape([b, n, heads * d]);
        self.to_out.forward(p, out)
    }

    /// Attention of `x` `[b, n, D]`; `scores` `[b, n]` multiply its queries, `positions` (u32 `[n]` or `[b, n]`) turn them.
    /// A query whose context is all masked sees the null key only; without one it gets the mean of the values.
    #[track_caller]
    pub fn forward<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        scores: Option<Var<'g>>,
        positions: Option<Var<'g>>,
        context: &Context<'g>,
    ) -> Var<'g> {
        self.check_call(x, context);
        let q = self.queries(p, x, scores, positions);
        self.attend(p, q, &self.keys(p, context.tokens.unwrap_or(x), context))
    }

    #[track_caller]
    fn check_call(&self, x: Var<'_>, c: &Context<'_>) {
        let (graph, dim) = (x.graph(), self.config.dim);
        expect(graph, "heavy attention: tokens", x, &TensorType::f32([x.dim(0), x.dim(1), dim]));
        let tokens = c.tokens.unwrap_or(x);
        let mut each = tokens.shape();
        each.0.pop();
        let mut whole = each.clone();
        whole.0.push(dim);
        if !(each.len() == 2 || each.len() == 3) || !(each[0] == x.dim(0) || each[0] == 1) {
            let message = format!("expected [{}, m, {dim}] or [{0}, r, m, {dim}], got {}", x.dim(0), tokens.ty());
            refuse(graph, "heavy attention: context", message);
        }
        expect(graph, "heavy attention: context", tokens, &TensorType::f32(whole));
        if let Some(mask) = c.mask {
            expect(graph, "heavy attention: mask", mask, &TensorType::u32(&each));
        }
        if let Some(scores) = c.scores {
            expect(graph, "heavy attention: scores of the context", scores, &TensorType::f32(&each));
        }
    }
}
