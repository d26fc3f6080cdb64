//! CoLT5's block: attention, then feed-forward, each with a residual.

use super::attention::{AttentionConfig, AttentionRoute, ConditionalRoutedAttention};
use super::descent_router::CoordinateDescentRouterConfig;
use super::feed_forward::{ConditionalRoutedFeedForward, FeedForwardConfig};
use super::router::{Route, RouterConfig};
use super::rows::below;
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{ParamVars, Params};

/// Options of a [`ConditionalRoutedTransformerBlock`].
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// The attention.
    pub attention: AttentionConfig,
    /// The feed-forward, of the same width.
    pub feed_forward: FeedForwardConfig,
}

impl BlockConfig {
    /// The package's defaults with routers that learn.
    pub fn new(
        dim: usize,
        num_heavy_attn_tokens_q: usize,
        num_heavy_attn_tokens_kv: usize,
        num_heavy_ff_tokens: usize,
    ) -> Self {
        BlockConfig {
            attention: AttentionConfig::new(dim, num_heavy_attn_tokens_q, num_heavy_attn_tokens_kv),
            feed_forward: FeedForwardConfig::new(dim, num_heavy_ff_tokens),
        }
    }

    /// All routers with the same options.
    pub fn router(mut self, router: impl Into<RouterConfig>) -> Self {
        let router = router.into();
        self.attention.router = router.clone();
        self.feed_forward.router = router;
        self
    }

    /// All routers as in version 0.11.2 of the package, for its checkpoints.
    pub fn reference(self) -> Self {
        self.router(CoordinateDescentRouterConfig::reference())
    }

    /// As in versions 0.2.x of the package, for its checkpoints: no null tokens, and their coordinate-descent router;
    /// their other routers through [`router`](Self::router).
    pub fn version_0_2(mut self) -> Self {
        self.attention.use_null_kv = false;
        self.attention.use_null_q_tokens = false;
        self.router(CoordinateDescentRouterConfig::version_0_2())
    }

    /// Refuses values no module can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let (a, f) = (self.attention.dim, self.feed_forward.dim);
        if a != f {
            let message = format!("{a} for attention, {f} for feed-forward; they must be equal");
            return Err(Error::argument("BlockConfig: dim", message));
        }
        self.attention.check()?;
        self.feed_forward.check()
    }
}

/// Options of one call.
#[derive(Clone, Copy)]
pub struct BlockRoute<'g> {
    /// Of the attention.
    pub attention: AttentionRoute<'g>,
    /// Of the feed-forward.
    pub feed_forward: Route<'g>,
}

impl<'g> BlockRoute<'g> {
    /// With a mask of the tokens that exist, u32 0/1 `[b, n]`.
    pub fn mask(mut self, mask: impl Into<Option<Var<'g>>>) -> Self {
        let mask = mask.into();
        self.attention.mask = mask;
        self.feed_forward.mask = mask;
        self
    }
}

/// `x += attention(x)`, then `x += feed_forward(x)`. Parameters `conditional_attn.*` and `conditional_ff.*` below its name.
#[derive(Clone, Debug)]
pub struct ConditionalRoutedTransformerBlock {
    /// The attention.
    pub attention: ConditionalRoutedAttention,
    /// The feed-forward.
    pub feed_forward: ConditionalRoutedFeedForward,
}

impl ConditionalRoutedTransformerBlock {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`BlockConfig::check`].
    pub fn new(params: &mut Params, name: &str, config: BlockConfig) -> Result<Self> {
        config.check()?;
        Ok(ConditionalRoutedTransformerBlock {
            attention: ConditionalRoutedAttention::new(params, &below(name, "conditional_attn"), config.attention)?,
            feed_forward: ConditionalRoutedFeedForward::new(
                params,
                &below(name, "conditional_ff"),
                config.feed_forward,
            )?,
        })
    }

    /// Options of one call with the module's numbers of heavy tokens.
    pub fn route<'g>(&self) -> BlockRoute<'g> {
        let feed_forward = Route { site: 2, ..self.feed_forward.route() };
        BlockRoute { attention: self.attention.route(), feed_forward }
    }

    /// `x` `[b, n, D]` to `[b, n, D]`; `route` starts from [`route`](Self::route).
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &BlockRoute<'g>) -> Var<'g> {
        let x = self.attention.forward(p, x, &route.attention) + x;
        self.feed_forward.forward(p, x, &route.feed_forward) + x
    }
}
