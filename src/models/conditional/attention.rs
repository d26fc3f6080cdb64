//! CoLT5's attention: local for every token, global for routed ones.

use super::branch::{BranchConfig, HeavyBranch};
use super::heavy_attention::{DescentKeys, HeavyAttentionConfig};
use super::router::{Route, Router, RouterConfig};
use super::rows::{below, expect, within};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{LocalAttention, LocalAttentionConfig, ParamVars, Params};
use crate::ops::attention::local::Tail;
use crate::types::TensorType;

/// Options of a [`ConditionalRoutedAttention`]; those of the package, version 0.11.2.
#[derive(Clone, Debug)]
pub struct AttentionConfig {
    /// Features of a token.
    pub dim: usize,
    /// Queries of the heavy branch in a sequence.
    pub num_heavy_tokens_q: usize,
    /// Keys and values of the heavy branch in a sequence, for each route.
    pub num_heavy_tokens_kv: usize,
    /// Routes of keys and values; each has `heavy_heads / num_routed_kv` heads.
    pub num_routed_kv: usize,
    /// Whether there is a light branch.
    pub has_light_attn: bool,
    /// Features of a head of the light branch.
    pub light_dim_head: usize,
    /// Heads of the light branch.
    pub light_heads: usize,
    /// Tokens that a token of the light branch sees: half of them on either side.
    pub light_window_size: usize,
    /// Zeros that fill up the last window of the light branch.
    pub light_tail: Tail,
    /// Features of a head of the heavy branch.
    pub heavy_dim_head: usize,
    /// Heads of the heavy branch.
    pub heavy_heads: usize,
    /// How queries, keys and values are routed.
    pub router: RouterConfig,
    /// Scores multiply keys as well as values.
    pub multiply_keys_by_score: bool,
    /// Scores multiply queries as well as results.
    pub multiply_queries_by_score: bool,
    /// A learned token stands where no query was routed, instead of 0.
    pub use_null_q_tokens: bool,
    /// One learned key and value a head that every query sees; absent in versions 0.2.x.
    pub use_null_kv: bool,
    /// Soft top-k over the keys in place of the softmax of the heavy branch.
    pub heavy_descent: Option<DescentKeys>,
    /// Rotary embedding of the heavy branch, by positions in the sequence.
    pub rotary_emb: bool,
}

impl AttentionConfig {
    /// The package's defaults with a router that learns.
    pub fn new(dim: usize, num_heavy_tokens_q: usize, num_heavy_tokens_kv: usize) -> Self {
        AttentionConfig {
            dim,
            num_heavy_tokens_q,
            num_heavy_tokens_kv,
            num_routed_kv: 1,
            has_light_attn: true,
            light_dim_head: 64,
            light_heads: 8,
            light_window_size: 128,
            light_tail: Tail::default(),
            heavy_dim_head: 64,
            heavy_heads: 8,
            router: RouterConfig::default(),
            multiply_keys_by_score: false,
            multiply_queries_by_score: false,
            use_null_q_tokens: true,
            use_null_kv: true,
            heavy_descent: None,
            rotary_emb: false,
        }
    }

    pub(super) fn branch(&self) -> BranchConfig<'_> {
        let attention = HeavyAttentionConfig {
            dim: self.dim,
            heads: self.heavy_heads,
            dim_head: self.heavy_dim_head,
            multiply_keys_by_score: self.multiply_keys_by_score,
            null_kv: self.use_null_kv,
            descent: self.heavy_descent.clone(),
        };
        BranchConfig {
            attention,
            q_router: &self.router,
            kv_router: &self.router,
            routes: self.num_routed_kv,
            null_q_token: self.use_null_q_tokens,
            multiply_queries_by_score: self.multiply_queries_by_score,
            rotary: self.rotary_emb,
            whole_if_short: false,
        }
    }

    /// Refuses values no module can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let mut sizes = vec![
            ("dim", self.dim),
            ("num_heavy_tokens_q", self.num_heavy_tokens_q),
            ("num_heavy_tokens_kv", self.num_heavy_tokens_kv),
        ];
        if self.has_light_attn {
            sizes.push(("light_dim_head", self.light_dim_head));
            sizes.push(("light_heads", self.light_heads));
            sizes.push(("light_window_size", self.light_window_size / 2));
        }
        for (what, value) in sizes {
            if value == 0 {
                let message = match what {
                    "light_window_size" => "is below 2; a token must see one on either side",
                    _ => "is 0; expected at least 1",
                };
                return Err(Error::argument(format!("AttentionConfig::{what}"), message));
            }
        }
        if self.has_light_attn {
            within("AttentionConfig: light_attn.to_qkv.weight", &[3, self.light_heads, self.light_dim_head, self.dim])?;
        }
        self.branch().attention.check(self.num_routed_kv, self.rotary_emb)?;
        self.router.check()
    }
}

/// Options of one call.
#[derive(Clone, Copy)]
pub struct AttentionRoute<'g> {
    /// Routed queries of each sequence; where there are no more tokens, all are queries of the heavy branch.
    pub num_heavy_tokens_q: usize,
    /// Routed keys and values of each sequence and route; where there are no more tokens, all are.
    pub num_heavy_tokens_kv: usize,
    /// Queries of each sample, u32 `[b]`: see [`Route::counts`].
    pub counts_q: Option<Var<'g>>,
    /// Keys and values of each sample, u32 `[b]`.
    pub counts_kv: Option<Var<'g>>,
    /// Tokens that exist, u32 0/1 `[b, n]`.
    pub mask: Option<Var<'g>>,
    /// Routing token of the queries, `[b, D]`, for routers without their own: see [`Route::routing_tokens`].
    pub routing_tokens_q: Option<Var<'g>>,
    /// Routing tokens of keys and values, `[b, r, D]`.
    pub routing_tokens_kv: Option<Var<'g>>,
    /// Route at random instead.
    pub random_route: bool,
    /// Given Gumbel noise of the query router, if it is a Sinkhorn router: see [`Route::gumbel`].
    pub gumbel_q: Option<Var<'g>>,
    /// Given Gumbel noise of the router of keys and values: see [`Route::gumbel`].
    pub gumbel_kv: Option<Var<'g>>,
    /// First of two sites of random numbers.
    pub site: u32,
}

impl<'g> AttentionRoute<'g> {
    /// So many tokens, all other options off.
    pub fn new(num_heavy_tokens_q: usize, num_heavy_tokens_kv: usize) -> Self {
        AttentionRoute {
            num_heavy_tokens_q,
            num_heavy_tokens_kv,
            counts_q: None,
            counts_kv: None,
            mask: None,
            routing_tokens_q: None,
            routing_tokens_kv: None,
            random_route: false,
            gumbel_q: None,
            gumbel_kv: None,
            site: 0,
        }
    }

    /// Routing of queries, and of keys and values.
    pub(super) fn routes(&self) -> [Route<'g>; 2] {
        let one = |k, counts, routing_tokens, gumbel, site| Route {
            counts,
            mask: self.mask,
            routing_tokens,
            random_route: self.random_route,
            gumbel,
            site,
            ..Route::new(k)
        };
        [
            one(self.num_heavy_tokens_q, self.counts_q, self.routing_tokens_q, self.gumbel_q, self.site),
            one(
                self.num_heavy_tokens_kv,
                self.counts_kv,
                self.routing_tokens_kv,
                self.gumbel_kv,
                self.site.wrapping_add(1),
            ),
        ]
    }
}

/// CoLT5's attention (Ainslie et al. 2023, arXiv 2303.09752): local attention of all tokens plus, for routed queries, full
/// attention to routed keys and values. Where no query was routed a learned token is added. Parameters below its name:
/// `light_attn.*`, `q_router.*`, `kv_router.*`, `heavy_attn.*`, `null_q_token`, and the constant `rotary_emb.inv_freq`.
#[derive(Clone, Debug)]
pub struct ConditionalRoutedAttention {
    config: AttentionConfig,
    light: Option<LocalAttention>,
    heavy: HeavyBranch,
}

impl ConditionalRoutedAttention {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`AttentionConfig::check`].
    pub fn new(params: &mut Params, name: &str, config: AttentionConfig) -> Result<Self> {
        config.check()?;
        let light = config.has_light_attn.then(|| {
            let light = LocalAttentionConfig {
                heads: config.light_heads,
                dim_head: config.light_dim_head,
                tail: config.light_tail,
                ..LocalAttentionConfig::new(config.dim, config.light_window_size / 2)
            };
            LocalAttention::new(params, &below(name, "light_attn"), light)
        });
        let heavy = HeavyBranch::new(params, name, config.branch())?;
        Ok(ConditionalRoutedAttention { config, light, heavy })
    }

    /// The router of the queries.
    pub fn q_router(&self) -> &Router {
        &self.heavy.q_router
    }

    /// The router of keys and values.
    pub fn kv_router(&self) -> &Router {
        &self.heavy.kv_router
    }

    /// Options of one call with the module's numbers of heavy tokens.
    pub fn route<'g>(&self) -> AttentionRoute<'g> {
        AttentionRoute::new(self.config.num_heavy_tokens_q, self.config.num_heavy_tokens_kv)
    }

    /// `x` `[b, n, D]` to `[b, n, D]`, without residual; `route` starts from [`route`](Self::route). Rows of masked tokens
    /// are finite, and meaningless.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &AttentionRoute<'g>) -> Var<'g> {
        let want = TensorType::f32([x.dim(0), x.dim(1), self.config.dim]);
        expect(x.graph(), "ConditionalRoutedAttention: tokens", x, &want);
        let [q, kv] = route.routes();
        let heavy = self.heavy.forward(p, x, x, &q, &kv);
        match &self.light {
            Some(light) => light.forward(p, x, route.mask) + heavy,
            None => heavy,
        }
    }
}
