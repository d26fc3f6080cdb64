//! The Sinkhorn router of versions 0.2.x: slots take the tokens that a doubly stochastic assignment gives them.

use super::router::{Route, Routed, Selection, check_call, normalized};
use super::rows::{below, expect, take_mask};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{Init, ParamVars, Params};
use crate::ops::route::sinkhorn::Sinkhorn;
use crate::types::TensorType;

/// Options of a [`SinkhornRouter`].
#[derive(Clone, Debug)]
pub struct SinkhornRouterConfig {
    /// Scores of selected tokens are 1, with the gradient of the soft ones.
    pub straight_through: bool,
    /// Iterations, each over tokens, then over slots.
    pub n_iters: usize,
    /// The noisy logarithms of the scores are divided by it.
    pub temperature: f64,
    /// Number of routing tokens, each with a selection of its own.
    pub num_routing_tokens: usize,
}

impl Default for SinkhornRouterConfig {
    fn default() -> Self {
        SinkhornRouterConfig { straight_through: true, n_iters: 8, temperature: 0.7, num_routing_tokens: 1 }
    }
}

impl SinkhornRouterConfig {
    /// Refuses values no router can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be.
    pub fn check(&self) -> Result<()> {
        if self.n_iters == 0 {
            return Err(Error::argument("SinkhornRouterConfig::n_iters", "is 0; expected at least 1"));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(Error::argument("SinkhornRouterConfig::temperature", "is no positive number"));
        }
        match self.num_routing_tokens {
            0 => Err(Error::argument("SinkhornRouterConfig::num_routing_tokens", "is 0; expected at least 1")),
            _ => Ok(()),
        }
    }
}

/// Gumbel-Sinkhorn (Mena et al. 2018, arXiv 1802.08665) of k slots that all score the tokens alike; each takes its likeliest
/// token, so a token may be taken more than once. The logarithm is of the plain dot products, as in the package: negative
/// ones count as 1e-20 and get no gradient. Parameter `routing_token` `[r, D]` below its name.
#[derive(Clone, Debug)]
pub struct SinkhornRouter {
    config: SinkhornRouterConfig,
    dim: usize,
    routing_token: String,
}

impl SinkhornRouter {
    /// Adds the parameter below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`SinkhornRouterConfig::check`].
    pub fn new(params: &mut Params, name: &str, dim: usize, config: SinkhornRouterConfig) -> Result<Self> {
        config.check()?;
        let routing_token = below(name, "routing_token");
        params.add(&routing_token, [config.num_routing_tokens, dim], Init::Normal { std: 1.0 });
        Ok(SinkhornRouter { config, dim, routing_token })
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Routes `min(num_tokens, n)` tokens of `x` `[b, n, D]`, with fresh noise unless it is given. No options of the
    /// coordinate-descent router.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &Route<'g>) -> Routed<'g> {
        check_call("Sinkhorn router", x, self.dim, route);
        super::router::only_descent("Sinkhorn router", x, route);
        let (g, b, n, r) = (x.graph(), x.dim(0), x.dim(1), self.config.num_routing_tokens);
        let k = route.num_tokens.min(n);
        let raw = x.matmul(p.get(&self.routing_token).transpose(0, 1)).transpose(1, 2);
        let raw = raw.unsqueeze(2).expand([b, r, k, n]);
        let mask = route.mask.map(|mask| mask.reshape([b, 1, 1, n]).expand([b, r, k, n]));
        let fill = |v: Var<'g>| mask.map_or(v, |mask| v.keep_where(mask, f64::from(f32::MIN)));
        let noise = route.gumbel.unwrap_or_else(|| g.gumbel([b, r, k, n], route.site));
        if noise.rank() == 3 {
            expect(g, "Sinkhorn router: gumbel", noise, &TensorType::f32([b * r, k, n]));
        } else {
            expect(g, "Sinkhorn router: gumbel", noise, &TensorType::f32([b, r, k, n]));
        }
        let options =
            Sinkhorn { iterations: self.config.n_iters, temperature: self.config.temperature, ..Sinkhorn::default() };
        let plan = fill(fill(raw).gumbel_sinkhorn(noise.reshape([b, r, k, n]), &options));
        let indices = plan.argmax(3).reshape([b, r, k]);
        let soft = plan.take_along(indices.unsqueeze(3), 3).reshape([b, r, k]);
        let exists = route.mask.map(|mask| take_mask(mask, indices, None));
        // The plan of a sample that is all masked is filled with the lowest number.
        let soft = exists.map_or(soft, |exists| soft.keep_where(exists, 0.0));
        let scores = normalized(soft, exists, self.config.straight_through);
        let routed = Routed::gather(Selection { indices, scores }, x, route.mask, None);
        if r == 1 && !route.keep_one_route_dim { routed.one_route() } else { routed }
    }
}
