//! Feed-forward whose heavy branch sees routed tokens only.

use super::router::{Route, Router, RouterConfig};
use super::rows::{below, put, within};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{Init, Linear, ParamVars, Params};

/// `W2 gelu(W1 norm(x))`: parameters `0.gamma` (RMS norm), `1.weight`, `1.bias`, `3.weight`, `3.bias` below its name.
#[derive(Clone, Debug)]
pub(super) struct FeedForward {
    gamma: String,
    proj_in: Linear,
    proj_out: Linear,
}

impl FeedForward {
    pub fn new(params: &mut Params, name: &str, dim: usize, mult: f64) -> Self {
        let inner = (dim as f64 * mult) as usize;
        let gamma = below(name, "0.gamma");
        params.add(&gamma, [dim], Init::Ones);
        let proj_in = Linear::new(params, &below(name, "1"), dim, inner, true);
        FeedForward { gamma, proj_in, proj_out: Linear::new(params, &below(name, "3"), inner, dim, true) }
    }

    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        let hidden = self.proj_in.forward(p, x.rms_norm(p.get(&self.gamma))).gelu();
        self.proj_out.forward(p, hidden)
    }
}

/// Options of [`ConditionalRoutedFeedForward`].
#[derive(Clone, Debug)]
pub struct FeedForwardConfig {
    /// Features of a token.
    pub dim: usize,
    /// Tokens of a sequence that the heavy branch sees; as many as there are, or more: it sees all.
    pub num_heavy_tokens: usize,
    /// Inner features of the light branch, in multiples of `dim`.
    pub light_ff_mult: f64,
    /// Inner features of the heavy branch, in multiples of `dim`.
    pub heavy_ff_mult: f64,
    /// How tokens are routed.
    pub router: RouterConfig,
}

impl FeedForwardConfig {
    /// The package's widths with a router that learns.
    pub fn new(dim: usize, num_heavy_tokens: usize) -> Self {
        FeedForwardConfig {
            dim,
            num_heavy_tokens,
            light_ff_mult: 0.5,
            heavy_ff_mult: 4.0,
            router: RouterConfig::default(),
        }
    }

    /// Refuses values no module can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let inner = |mult: f64| (self.dim as f64 * mult) as usize;
        for (what, value) in [
            ("dim", self.dim),
            ("num_heavy_tokens", self.num_heavy_tokens),
            ("light_ff_mult", inner(self.light_ff_mult)),
            ("heavy_ff_mult", inner(self.heavy_ff_mult)),
        ] {
            if value == 0 {
                let message = "gives 0; expected at least 1";
                return Err(Error::argument(format!("FeedForwardConfig::{what}"), message));
            }
        }
        let widest = inner(self.light_ff_mult).max(inner(self.heavy_ff_mult));
        within("FeedForwardConfig: the widest matrix", &[widest, self.dim])?;
        self.router.check()
    }
}

/// CoLT5's feed-forward (Ainslie et al. 2023, arXiv 2303.09752): `light(x) + score heavy(x)`, where the heavy branch sees
/// the routed tokens only and is 0 elsewhere. Parameters `router.*`, `light_ff.*`, `heavy_ff.*` below its name.
#[derive(Clone, Debug)]
pub struct ConditionalRoutedFeedForward {
    config: FeedForwardConfig,
    router: Router,
    light: FeedForward,
    heavy: FeedForward,
}

impl ConditionalRoutedFeedForward {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`FeedForwardConfig::check`].
    pub fn new(params: &mut Params, name: &str, config: FeedForwardConfig) -> Result<Self> {
        config.check()?;
        let router = Router::new(params, &below(name, "router"), config.dim, &config.router, 1)?;
        let light = FeedForward::new(params, &below(name, "light_ff"), config.dim, config.light_ff_mult);
        let heavy = FeedForward::new(params, &below(name, "heavy_ff"), config.dim, config.heavy_ff_mult);
        Ok(ConditionalRoutedFeedForward { config, router, light, heavy })
    }

    /// The router.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Options of one call with the module's number of heavy tokens.
    pub fn route<'g>(&self) -> Route<'g> {
        Route::new(self.config.num_heavy_tokens)
    }

    /// `x` `[b, n, D]` to `[b, n, D]`; `route` starts from [`route`](Self::route).
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &Route<'g>) -> Var<'g> {
        let routed = self.router.forward(p, x, &Route { keep_one_route_dim: false, ..*route });
        let heavy = self.heavy.forward(p, routed.tokens) * routed.scores.unsqueeze(2);
        let heavy = match routed.indices {
            Some(indices) => put(heavy, indices, x.dim(1), None, self.router.repeats()),
            None => heavy,
        };
        self.light.forward(p, x) + heavy
    }
}
