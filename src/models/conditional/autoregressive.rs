//! CoLT5's attention for decoders: routed queries of a window attend to routed keys of all windows before it.

use super::attention::AttentionConfig;
use super::branch::BranchConfig;
use super::descent_router::{CoordinateDescentRouter, CoordinateDescentRouterConfig, Rows};
use super::heavy_attention::{Context, HeavyAttention};
use super::router::{Route, Routed};
use super::rows::{below, expect, numbers, put, refuse, take, take_mask};
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::nn::{Init, LocalAttention, LocalAttentionConfig, ParamVars, Params};
use crate::types::TensorType;

/// Options of a [`ConditionalRoutedAutoregressiveAttention`].
#[derive(Clone, Debug)]
pub struct AutoregressiveConfig {
    /// As for sequences read both ways, but there is always a light branch, and the routers are of the coordinate-descent
    /// kind. `num_heavy_tokens_q` counts within a window; a token of the light branch sees its own block of
    /// `light_window_size` tokens up to itself, and the block before.
    pub attention: AttentionConfig,
    /// Tokens of a window of the heavy branch; none: as the light branch.
    pub heavy_window_size: Option<usize>,
}

impl AutoregressiveConfig {
    /// The package's defaults with routers that learn.
    pub fn new(dim: usize, num_heavy_tokens_q: usize, num_heavy_tokens_kv: usize) -> Self {
        let attention = AttentionConfig::new(dim, num_heavy_tokens_q, num_heavy_tokens_kv);
        AutoregressiveConfig { attention, heavy_window_size: None }
    }

    /// Tokens of a window of the heavy branch.
    pub fn window(&self) -> usize {
        self.heavy_window_size.unwrap_or(self.attention.light_window_size)
    }

    /// Refuses values no module can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let refuse = |message: &str| Err(Error::argument("AutoregressiveConfig", message));
        if self.window() == 0 || self.attention.light_window_size == 0 {
            return refuse("a window of 0 tokens; expected at least 1");
        }
        if !self.attention.has_light_attn {
            return refuse("the first window has the light attention only; set has_light_attn");
        }
        // Here a window of one token is fine.
        AttentionConfig { light_window_size: 2, ..self.attention.clone() }.check()
    }

    fn router(&self, routes: usize) -> Result<CoordinateDescentRouterConfig> {
        match &self.attention.router {
            super::RouterConfig::CoordinateDescent(c) if c.learned_routing_tokens || c.source_attention.is_some() => {
                let message = "routing tokens that are passed or query the tokens would see later tokens";
                Err(Error::argument("AutoregressiveConfig: router", message))
            }
            super::RouterConfig::CoordinateDescent(c) => {
                Ok(CoordinateDescentRouterConfig { num_routing_tokens: routes, ..c.clone() })
            }
            _ => Err(Error::argument("AutoregressiveConfig: router", "expected a coordinate-descent router")),
        }
    }
}

/// CoLT5's attention for decoders: causal local attention of all tokens plus, for routed queries of each window but the
/// first, full attention to routed keys and values of all windows before it. Which queries of a window are routed depends on
/// the whole window; what they see does not. Parameters as of
/// [`ConditionalRoutedAttention`](super::ConditionalRoutedAttention).
#[derive(Clone, Debug)]
pub struct ConditionalRoutedAutoregressiveAttention {
    pub(super) config: AutoregressiveConfig,
    pub(super) light: LocalAttention,
    pub(super) q_router: CoordinateDescentRouter,
    pub(super) kv_router: CoordinateDescentRouter,
    pub(super) heavy: HeavyAttention,
    pub(super) null_q_token: Option<String>,
}

/// Options of one call.
#[derive(Clone, Copy, Debug)]
pub struct AutoregressiveRoute {
    /// Routed queries of each window; where it has no more tokens, all are.
    pub num_heavy_tokens_q: usize,
    /// Routed keys and values of each window and route; where the sequence has no more tokens, all earlier ones are.
    pub num_heavy_tokens_kv: usize,
    /// Route at random instead.
    pub random_route: bool,
    /// First of two sites of random numbers.
    pub site: u32,
}

impl ConditionalRoutedAutoregressiveAttention {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`AutoregressiveConfig::check`].
    pub fn new(params: &mut Params, name: &str, config: AutoregressiveConfig) -> Result<Self> {
        config.check()?;
        let a = &config.attention;
        let BranchConfig { attention, routes, .. } = a.branch();
        let light = LocalAttentionConfig {
            heads: a.light_heads,
            dim_head: a.light_dim_head,
            causal: true,
            ..LocalAttentionConfig::new(a.dim, a.light_window_size)
        };
        let light = LocalAttention::new(params, &below(name, "light_attn"), light);
        let q_router = CoordinateDescentRouter::new(params, &below(name, "q_router"), a.dim, config.router(1)?)?;
        let kv_router = CoordinateDescentRouter::new(params, &below(name, "kv_router"), a.dim, config.router(routes)?)?;
        let heavy = HeavyAttention::new(params, &below(name, "heavy_attn"), attention)?;
        let null_q_token = a.use_null_q_tokens.then(|| below(name, "null_q_token"));
        if let Some(token) = &null_q_token {
            params.add(token, [a.dim], Init::Normal { std: 1.0 });
        }
        if a.rotary_emb {
            super::branch::declare_rotary(params, name, a.heavy_dim_head);
        }
        Ok(ConditionalRoutedAutoregressiveAttention { light, q_router, kv_router, heavy, null_q_token, config })
    }

    /// Options of one call with the module's numbers of heavy tokens.
    pub fn route(&self) -> AutoregressiveRoute {
        let AttentionConfig { num_heavy_tokens_q, num_heavy_tokens_kv, .. } = self.config.attention;
        AutoregressiveRoute { num_heavy_tokens_q, num_heavy_tokens_kv, random_route: false, site: 0 }
    }

    /// `x` `[b, n, D]` to `[b, n, D]`, without residual; `route` starts from [`route`](Self::route). A sequence of one window
    /// or less has the light attention only. The scores of all windows take `n² / window` numbers a route.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &AutoregressiveRoute) -> Var<'g> {
        let (g, b, n, d) = (x.graph(), x.dim(0), x.dim(1), self.config.attention.dim);
        let w = self.config.window();
        let what = "ConditionalRoutedAutoregressiveAttention: tokens";
        expect(g, what, x, &TensorType::f32([b, n, d]));
        if route.num_heavy_tokens_q == 0 || route.num_heavy_tokens_kv == 0 {
            refuse(g, "ConditionalRoutedAutoregressiveAttention: num_heavy_tokens", "is 0; expected at least 1");
        }
        let light = self.light.forward(p, x, None);
        let windows = n.div_ceil(w);
        if windows < 2 {
            return light;
        }
        let x = x.pad(1, 0, windows * w - n);
        // After a mistake nothing has its shape.
        if g.error().is_some() {
            return light;
        }
        let rows = b * (windows - 1);
        let queries = self.window_queries(p, x, n, route);
        let (context, positions) = self.window_context(p, x, route);
        let rotary = self.config.attention.rotary_emb;
        let at = rotary.then(|| query_positions(queries.indices, rows, windows, w, g));
        let scores = queries.indices.filter(|_| self.config.attention.multiply_queries_by_score);
        let scores = scores.map(|_| queries.scores);
        let context = Context { positions: positions.filter(|_| rotary), ..context };
        let out = self.heavy.forward(p, queries.tokens, scores, at, &context);
        let out = self.place(p, out, &queries, w).reshape([b, (windows - 1) * w, d]);
        light + out.slice(1, 0, n - w).pad(1, w, 0)
    }

    /// Puts results of routed queries, times their scores, back into their windows.
    pub(super) fn place<'g>(&self, p: &ParamVars<'g>, out: Var<'g>, queries: &Routed<'g>, w: usize) -> Var<'g> {
        let Some(indices) = queries.indices else { return out };
        let rest = self.null_q_token.as_ref().map(|name| p.get(name));
        put(out * queries.scores.unsqueeze(2), indices, w, rest, false)
    }

    /// Routed queries of all windows but the first; each window is a row of the batch.
    fn window_queries<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, n: usize, route: &AutoregressiveRoute) -> Routed<'g> {
        let (g, b, d, w) = (x.graph(), x.dim(0), x.dim(2), self.config.window());
        let (later, rows) = (x.dim(1) - w, b * (x.dim(1) / w - 1));
        let tokens = x.slice(1, w, later).reshape([rows, w, d]);
        // Padding is at the end of the last window.
        let padded = n < x.dim(1);
        let mask = padded.then(|| g.iota([b, later], 1).lt((n - w) as u32).reshape([rows, w]));
        let route =
            Route { mask, random_route: route.random_route, site: route.site, ..Route::new(route.num_heavy_tokens_q) };
        self.q_router.forward(p, tokens, &route)
    }

    /// What each window but the first sees, and where that lies in the sequence.
    fn window_context<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        route: &AutoregressiveRoute,
    ) -> (Context<'g>, Option<Var<'g>>) {
        let (g, b, n, d, w) = (x.graph(), x.dim(0), x.dim(1), x.dim(2), self.config.window());
        let (r, k) = (self.kv_router.config().num_routing_tokens, route.num_heavy_tokens_kv);
        let (later, rows) = (n / w - 1, b * (n / w - 1));
        let shape = [b, later, r, n];
        // Window j + 1 sees the positions below (j + 1) w.
        let mask = g.iota(shape, 3).lt((g.iota(shape, 1) + 1) * w as u32).reshape([rows, r, n]);
        if n <= k {
            let tokens = x.reshape([b, 1, 1, n, d]).expand([b, later, r, n, d]).reshape([rows, r, n, d]);
            return (Context { tokens: Some(tokens), mask: Some(mask), ..Context::default() }, Some(g.iota([n], 0)));
        }
        let raw = self.kv_router.scores(p, x, &Route::new(k));
        let raw = raw.unsqueeze(1).expand(shape).reshape([rows, r, n]);
        let random = route.random_route.then(|| route.site.wrapping_add(1));
        let chosen = self.kv_router.select(&Rows {
            raw,
            mask: Some(mask),
            num_tokens: k,
            counts: None,
            soft_count: None,
            random,
        });
        // Rows are windows of sequences.
        let source = self.kv_router.source_rows(rows);
        let row = |i: usize| source.as_ref().map_or(i, |source| source(i));
        let sequences = numbers(g, rows, |i| row(i) / later);
        let windows = source.as_ref().map(|_| numbers(g, rows, row));
        let visible = take_mask(mask.select_index(1, 0), chosen.indices, windows);
        let context = Context {
            tokens: Some(take(x, chosen.indices, Some(sequences))),
            mask: Some(visible),
            scores: Some(chosen.scores),
            ..Context::default()
        };
        (context, Some(chosen.indices))
    }
}

/// Positions in the sequence of the queries of all windows but the first, `[rows, k]`.
fn query_positions<'g>(indices: Option<Var<'g>>, rows: usize, windows: usize, w: usize, g: &'g Graph) -> Var<'g> {
    let starts = numbers(g, rows, |i| (i % (windows - 1) + 1) * w).unsqueeze(1);
    starts + indices.unwrap_or_else(|| g.iota([rows, w], 1))
}
