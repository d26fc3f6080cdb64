//! The cumulative-softmax router of versions 0.2.x.

use super::router::{Route, Routed, Selection, check_call, normalized};
use super::rows::{below, take_mask};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{Init, ParamVars, Params};

/// Options of a [`CumulativeSoftmaxRouter`].
#[derive(Clone, Debug)]
pub struct CumulativeSoftmaxRouterConfig {
    /// Scores of selected tokens are 1, with the gradient of the soft ones.
    pub straight_through: bool,
    /// Dot products are divided by it.
    pub temperature: f64,
    /// Number of routing tokens, each with a selection of its own.
    pub num_routing_tokens: usize,
}

impl Default for CumulativeSoftmaxRouterConfig {
    fn default() -> Self {
        CumulativeSoftmaxRouterConfig { straight_through: true, temperature: 1.0, num_routing_tokens: 1 }
    }
}

impl CumulativeSoftmaxRouterConfig {
    /// Refuses values no router can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(Error::argument("CumulativeSoftmaxRouterConfig::temperature", "is no positive number"));
        }
        match self.num_routing_tokens {
            0 => Err(Error::argument("CumulativeSoftmaxRouterConfig::num_routing_tokens", "is 0; expected at least 1")),
            _ => Ok(()),
        }
    }
}

/// Routes the k tokens of largest score `<token, routing token> / temperature`; the score of each is its share in the softmax
/// over the tokens of no larger score. Parameter `routing_token` `[r, D]` below its name. In the package it is called
/// `DifferentiableTopKRouter`.
#[derive(Clone, Debug)]
pub struct CumulativeSoftmaxRouter {
    config: CumulativeSoftmaxRouterConfig,
    dim: usize,
    routing_token: String,
}

impl CumulativeSoftmaxRouter {
    /// Adds the parameter below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`CumulativeSoftmaxRouterConfig::check`].
    pub fn new(params: &mut Params, name: &str, dim: usize, config: CumulativeSoftmaxRouterConfig) -> Result<Self> {
        config.check()?;
        let routing_token = below(name, "routing_token");
        params.add(&routing_token, [config.num_routing_tokens, dim], Init::Normal { std: 1.0 });
        Ok(CumulativeSoftmaxRouter { config, dim, routing_token })
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Routes `min(num_tokens, n)` tokens of `x` `[b, n, D]`, in ascending order of their scores. No options of the
    /// coordinate-descent router.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &Route<'g>) -> Routed<'g> {
        check_call("cumulative-softmax router", x, self.dim, route);
        super::router::only_descent("cumulative-softmax router", x, route);
        let (b, n, r) = (x.dim(0), x.dim(1), self.config.num_routing_tokens);
        let raw = x.matmul(p.get(&self.routing_token).transpose(0, 1)).transpose(1, 2);
        let mask = route.mask.map(|mask| mask.unsqueeze(1).expand([b, r, n]));
        let chosen = raw.cumulative_softmax(route.num_tokens.min(n), self.config.temperature, mask);
        let exists = route.mask.map(|mask| take_mask(mask, chosen.indices, None));
        let scores = normalized(chosen.scores, exists, self.config.straight_through);
        let routed = Routed::gather(Selection { indices: chosen.indices, scores }, x, route.mask, None);
        if r == 1 && !route.keep_one_route_dim { routed.one_route() } else { routed }
    }
}
