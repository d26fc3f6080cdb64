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
}

impl Default for CumulativeSoftmaxRouterConfig {
    fn default() -> Self {
        CumulativeSoftmaxRouterConfig { straight_through: true, temperature: 1.0 }
    }
}

impl CumulativeSoftmaxRouterConfig {
    /// Refuses values no router can have.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(Error::argument("CumulativeSoftmaxRouterConfig::temperature", "is no positive number"));
        }
        Ok(())
    }
}

/// Routes the k tokens of largest score `<token, routing token> / temperature`; the score of each is its share in the softmax
/// over the tokens of no larger score. Parameter `routing_token` `[1, D]` below its name. In the package it is called
/// `DifferentiableTopKRouter`.
#[derive(Clone, Debug)]
pub struct CumulativeSoftmaxRouter {
    config: CumulativeSoftmaxRouterConfig,
    dim: usize,
    routing_token: String,
}

impl CumulativeSoftmaxRouter {
    /// Adds the parameter below `name` (none: at the top). Fails for options no router can have.
    pub fn new(params: &mut Params, name: &str, dim: usize, config: CumulativeSoftmaxRouterConfig) -> Result<Self> {
        config.check()?;
        let routing_token = below(name, "routing_token");
        params.add(&routing_token, [1, dim], Init::Normal { std: 1.0 });
        Ok(CumulativeSoftmaxRouter { config, dim, routing_token })
    }

    /// Routes tokens of `x` `[b, n, D]`; a sequence of no more than `num_tokens` is not routed. No options of the
    /// coordinate-descent router.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &Route<'g>) -> Routed<'g> {
        check_call("cumulative-softmax router", x, self.dim, route);
        super::router::only_descent("cumulative-softmax router", x, route);
        let (b, n) = (x.dim(0), x.dim(1));
        let routed = if n <= route.num_tokens {
            Routed::whole(x, route.mask, 1).one_route()
        } else {
            let raw = x.matmul(p.get(&self.routing_token).transpose(0, 1)).reshape([b, n]);
            let chosen = raw.cumulative_softmax(route.num_tokens, self.config.temperature, route.mask);
            let (indices, soft) = (chosen.indices, chosen.scores);
            let exists = route.mask.map(|mask| take_mask(mask, indices, None));
            let scores = normalized(soft, exists, self.config.straight_through);
            Routed::gather(Selection { indices, scores }, x, route.mask, None)
        };
        if route.keep_one_route_dim { routed.with_route() } else { routed }
    }
}
