//! Cross attention from routed queries to routed keys of another, usually longer, sequence.

use super::branch::{BranchConfig, HeavyBranch};
use super::descent_router::CoordinateDescentRouterConfig;
use super::heavy_attention::{DescentKeys, HeavyAttentionConfig};
use super::router::{Route, RouterConfig};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{ParamVars, Params};

/// Options of a [`ConditionalRoutedCrossAttention`]; those of the package, version 0.11.2.
#[derive(Clone, Debug)]
pub struct CrossAttentionConfig {
    /// Features of a token.
    pub dim: usize,
    /// Routed queries of a sequence.
    pub num_tokens_q: usize,
    /// Routed keys and values of a context, for each route.
    pub num_tokens_kv: usize,
    /// Features of a head.
    pub dim_head: usize,
    /// Number of heads.
    pub heads: usize,
    /// How queries, keys and values are routed.
    pub router: RouterConfig,
    /// Routes of keys and values; each has `heads / kv_routing_tokens` heads.
    pub kv_routing_tokens: usize,
    /// Scores multiply keys as well as values.
    pub multiply_keys_by_score: bool,
    /// A learned token stands where no query was routed, instead of 0.
    pub use_null_q_tokens: bool,
    /// One learned key and value a head that every query sees; absent in versions 0.2.x.
    pub use_null_kv: bool,
    /// Soft top-k over the keys in place of the softmax.
    pub descent: Option<DescentKeys>,
    /// Keys and values are routed evenly in blocks of so many tokens.
    pub route_block_size: Option<usize>,
}

impl CrossAttentionConfig {
    /// The package's defaults with a router that learns.
    pub fn new(dim: usize, num_tokens_q: usize, num_tokens_kv: usize) -> Self {
        CrossAttentionConfig {
            dim,
            num_tokens_q,
            num_tokens_kv,
            dim_head: 64,
            heads: 8,
            router: RouterConfig::default(),
            kv_routing_tokens: 1,
            multiply_keys_by_score: false,
            use_null_q_tokens: true,
            use_null_kv: true,
            descent: None,
            route_block_size: None,
        }
    }

    fn attention(&self) -> HeavyAttentionConfig {
        HeavyAttentionConfig {
            dim: self.dim,
            heads: self.heads,
            dim_head: self.dim_head,
            multiply_keys_by_score: self.multiply_keys_by_score,
            null_kv: self.use_null_kv,
            descent: self.descent.clone(),
        }
    }

    /// Options of the router of keys and values.
    fn kv_router(&self) -> Result<RouterConfig> {
        match (&self.router, self.route_block_size) {
            (router, None) => Ok(router.clone()),
            (RouterConfig::CoordinateDescent(c), size) => {
                Ok(CoordinateDescentRouterConfig { route_block_size: size, ..c.clone() }.into())
            }
            _ => {
                let message = "only the coordinate-descent router routes in blocks";
                Err(Error::argument("CrossAttentionConfig::route_block_size", message))
            }
        }
    }

    /// Refuses values no module can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        for (what, value) in [("num_tokens_q", self.num_tokens_q), ("num_tokens_kv", self.num_tokens_kv)] {
            if value == 0 {
                let message = "is 0; expected at least 1";
                return Err(Error::argument(format!("CrossAttentionConfig::{what}"), message));
            }
        }
        self.attention().check(self.kv_routing_tokens, false)?;
        self.router.check()?;
        self.kv_router()?.check()
    }
}

/// Options of one call.
#[derive(Clone, Copy)]
pub struct CrossRoute<'g> {
    /// Routing of the queries, with their mask.
    pub queries: Route<'g>,
    /// Routing of keys and values, with the mask of the context.
    pub context: Route<'g>,
}

/// Cross attention of routed queries to routed keys and values; no light branch. Where no query was routed a learned token
/// stands. Parameters below its name: `q_router.*`, `kv_router.*`, `heavy_attn.*`, `null_q_token`.
#[derive(Clone, Debug)]
pub struct ConditionalRoutedCrossAttention {
    config: CrossAttentionConfig,
    pub(super) heavy: HeavyBranch,
}

impl ConditionalRoutedCrossAttention {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`CrossAttentionConfig::check`].
    pub fn new(params: &mut Params, name: &str, config: CrossAttentionConfig) -> Result<Self> {
        config.check()?;
        let branch = BranchConfig {
            attention: config.attention(),
            q_router: &config.router,
            kv_router: &config.kv_router()?,
            routes: config.kv_routing_tokens,
            null_q_token: config.use_null_q_tokens,
            multiply_queries_by_score: false,
            rotary: false,
            whole_if_short: true,
        };
        let heavy = HeavyBranch::new(params, name, branch)?;
        Ok(ConditionalRoutedCrossAttention { config, heavy })
    }

    /// Options of one call with the module's numbers of tokens.
    pub fn route<'g>(&self) -> CrossRoute<'g> {
        CrossRoute {
            queries: Route::new(self.config.num_tokens_q),
            context: Route { site: 1, ..Route::new(self.config.num_tokens_kv) },
        }
    }

    /// `x` `[b, n, D]` attending to `context` `[b, m, D]`: `[b, n, D]`, without residual; `route` starts from
    /// [`route`](Self::route). No more than `num_tokens_q` tokens are all queries; no more than `num_tokens_kv` of the context
    /// are all seen.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, context: Var<'g>, route: &CrossRoute<'g>) -> Var<'g> {
        self.heavy.forward(p, x, context, &route.queries, &route.context)
    }
}
