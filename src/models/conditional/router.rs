//! Routers: which tokens of a sequence the heavy branch sees, and with what score.

use super::cumulative_softmax_router::{CumulativeSoftmaxRouter, CumulativeSoftmaxRouterConfig};
use super::descent_router::{CoordinateDescentRouter, CoordinateDescentRouterConfig};
use super::rows::{expect, refuse, take, take_mask};
use super::sinkhorn_router::{SinkhornRouter, SinkhornRouterConfig};
use crate::error::Result;
use crate::graph::{Graph, Var};
use crate::nn::{ParamVars, Params, Sharded};
use crate::types::TensorType;

/// Options of one routing.
#[derive(Clone, Copy)]
pub struct Route<'g> {
    /// Tokens k of each sequence that are routed. A sequence that has no more is not routed: all its tokens go, with scores
    /// of 1. (The routers of versions 0.2.x, but for that of coordinate descent, route all its tokens.)
    pub num_tokens: usize,
    /// Tokens of each sample, u32 `[b]`, at most [`num_tokens`](Self::num_tokens): the first so many of a sample's routed
    /// tokens count. The rest have score 0, mask 0, no token and the index n, which is past the sequence.
    pub counts: Option<Var<'g>>,
    /// Tokens that exist, u32 0/1 `[b, n]`.
    pub mask: Option<Var<'g>>,
    /// Routing tokens, `[b, D]` or `[b, r, D]`, for a router without its own.
    pub routing_tokens: Option<Var<'g>>,
    /// Route at random instead, with scores of 1: what a learned router is compared with.
    pub random_route: bool,
    /// Keep the dimension of the routes though there is one.
    pub keep_one_route_dim: bool,
    /// Given Gumbel noise `[b, min(k, n), n]` of a Sinkhorn router, instead of fresh noise.
    pub gumbel: Option<Var<'g>>,
    /// Site of the random numbers; different for each routing of a graph.
    pub site: u32,
}

impl Route<'_> {
    /// `num_tokens` of each sequence, all other options off.
    pub fn new(num_tokens: usize) -> Self {
        Route {
            num_tokens,
            counts: None,
            mask: None,
            routing_tokens: None,
            random_route: false,
            keep_one_route_dim: false,
            gumbel: None,
            site: 0,
        }
    }
}

/// What a router gives. With one route, unless its dimension is kept, there is no `r`.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'g> {
    /// Numbers of the routed tokens in their sequence, u32 `[b, r, k]`. Absent where nothing was routed: all tokens go.
    pub indices: Option<Var<'g>>,
    /// Their scores, `[b, r, k]`. Masked tokens have 0 if they were routed for want of others; 1 where nothing was routed.
    pub scores: Var<'g>,
    /// The tokens, `[b, r, k, D]`.
    pub tokens: Var<'g>,
    /// Which of them exist, u32 0/1 `[b, r, k]`; present where a mask or counts are given.
    pub mask: Option<Var<'g>>,
}

/// Indices u32 and scores `[b, r, k]` of a selection among rows.
#[derive(Clone, Copy)]
pub(super) struct Selection<'g> {
    pub indices: Var<'g>,
    pub scores: Var<'g>,
}

impl<'g> Routed<'g> {
    /// All tokens of `x` `[b, n, D]`, for each of `r` routes.
    pub(super) fn whole(x: Var<'g>, mask: Option<Var<'g>>, r: usize) -> Self {
        let (b, n, d) = (x.dim(0), x.dim(1), x.dim(2));
        Routed {
            indices: None,
            scores: x.graph().full([b, r, n], 1.0),
            tokens: x.unsqueeze(1).expand([b, r, n, d]),
            mask: mask.map(|mask| mask.unsqueeze(1).expand([b, r, n])),
        }
    }

    /// What a router gives after an error.
    pub(super) fn nothing(g: &'g Graph, dim: usize) -> Self {
        let tokens = g.full([1, 1, 1, dim], 0.0);
        Routed { indices: None, scores: g.full([1, 1, 1], 1.0), tokens, mask: None }
    }

    /// The selected tokens of `x` `[b, n, D]` and their mask; of the sequences `samples` `[b]` if they are given.
    pub(super) fn gather(
        selection: Selection<'g>,
        x: Var<'g>,
        mask: Option<Var<'g>>,
        samples: Option<Var<'g>>,
    ) -> Self {
        let Selection { indices, scores } = selection;
        Routed {
            indices: Some(indices),
            scores,
            tokens: take(x, indices, samples),
            mask: mask.map(|mask| take_mask(mask, indices, samples)),
        }
    }

    /// Without the dimension of the routes, of which there is one.
    pub(super) fn one_route(self) -> Self {
        let squeeze = |v: Var<'g>| {
            let mut shape = v.shape();
            if shape.len() > 1 {
                shape.0.remove(1);
            }
            v.reshape(shape)
        };
        Routed {
            indices: self.indices.map(squeeze),
            scores: squeeze(self.scores),
            tokens: squeeze(self.tokens),
            mask: self.mask.map(squeeze),
        }
    }
}

/// Keeps an error in the graph if a routing's options do not fit `x` `[b, n, D]`.
#[track_caller]
pub(super) fn check_call(what: &str, x: Var<'_>, dim: usize, route: &Route<'_>) {
    let graph = x.graph();
    let (b, n) = (x.dim(0), x.dim(1));
    expect(graph, &format!("{what}: tokens"), x, &TensorType::f32([b, n, dim]));
    if route.num_tokens == 0 {
        refuse(graph, &format!("{what}: num_tokens"), "is 0; expected at least 1");
    }
    if let Some(mask) = route.mask {
        expect(graph, &format!("{what}: mask"), mask, &TensorType::u32([b, n]));
    }
    if let Some(counts) = route.counts {
        expect(graph, &format!("{what}: counts"), counts, &TensorType::u32([b]));
    }
}

/// Keeps an error in the graph for options that only the coordinate-descent router has.
#[track_caller]
pub(super) fn only_descent(what: &str, x: Var<'_>, route: &Route<'_>) {
    for (option, given) in [
        ("counts", route.counts.is_some()),
        ("routing_tokens", route.routing_tokens.is_some()),
        ("random_route", route.random_route),
    ] {
        if given {
            let message = "only the coordinate-descent router has it; leave it off";
            refuse(x.graph(), &format!("{what}: {option}"), message);
        }
    }
}

/// Scores of selected tokens for the branches: with `straight_through` 1 with the gradient of `soft`, and 0 for tokens that
/// do not exist; else `soft` itself.
pub(super) fn normalized<'g>(soft: Var<'g>, mask: Option<Var<'g>>, straight_through: bool) -> Var<'g> {
    if !straight_through {
        return soft;
    }
    let ones = soft.graph().full(soft.shape(), 1.0).straight_through(soft);
    mask.map_or(ones, |mask| ones.keep_where(mask, 0.0))
}

/// Which router, and its options.
#[derive(Clone, Debug)]
pub enum RouterConfig {
    /// Soft top-k.
    CoordinateDescent(CoordinateDescentRouterConfig),
    /// Softmax over the tokens of smaller score; versions 0.2.x to 0.3.x.
    CumulativeSoftmax(CumulativeSoftmaxRouterConfig),
    /// Gumbel-Sinkhorn; versions 0.2.x to 0.3.x.
    Sinkhorn(SinkhornRouterConfig),
}

impl Default for RouterConfig {
    fn default() -> Self {
        RouterConfig::CoordinateDescent(CoordinateDescentRouterConfig::default())
    }
}

impl From<CumulativeSoftmaxRouterConfig> for RouterConfig {
    fn from(config: CumulativeSoftmaxRouterConfig) -> Self {
        RouterConfig::CumulativeSoftmax(config)
    }
}

impl From<SinkhornRouterConfig> for RouterConfig {
    fn from(config: SinkhornRouterConfig) -> Self {
        RouterConfig::Sinkhorn(config)
    }
}

impl From<CoordinateDescentRouterConfig> for RouterConfig {
    fn from(config: CoordinateDescentRouterConfig) -> Self {
        RouterConfig::CoordinateDescent(config)
    }
}

impl RouterConfig {
    /// Refuses values no router can have.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) names the field and says what it may be.
    pub fn check(&self) -> Result<()> {
        match self {
            RouterConfig::CoordinateDescent(config) => config.check(),
            RouterConfig::CumulativeSoftmax(config) => config.check(),
            RouterConfig::Sinkhorn(config) => config.check(),
        }
    }
}

/// A router of any kind.
#[derive(Clone, Debug)]
pub enum Router {
    /// Soft top-k.
    CoordinateDescent(Box<CoordinateDescentRouter>),
    /// Softmax over the tokens of smaller score.
    CumulativeSoftmax(CumulativeSoftmaxRouter),
    /// Gumbel-Sinkhorn.
    Sinkhorn(SinkhornRouter),
}

impl Router {
    /// Adds the parameters of a router of `routes` routes below `name`, whatever number its options have.
    ///
    /// # Errors
    /// As [`RouterConfig::check`].
    pub fn new(params: &mut Params, name: &str, dim: usize, config: &RouterConfig, routes: usize) -> Result<Self> {
        let num_routing_tokens = routes;
        Ok(match config.clone() {
            RouterConfig::CoordinateDescent(c) => {
                let config = CoordinateDescentRouterConfig { num_routing_tokens, ..c };
                Router::CoordinateDescent(Box::new(CoordinateDescentRouter::new(params, name, dim, config)?))
            }
            RouterConfig::CumulativeSoftmax(c) => {
                let config = CumulativeSoftmaxRouterConfig { num_routing_tokens, ..c };
                Router::CumulativeSoftmax(CumulativeSoftmaxRouter::new(params, name, dim, config)?)
            }
            RouterConfig::Sinkhorn(c) => {
                let config = SinkhornRouterConfig { num_routing_tokens, ..c };
                Router::Sinkhorn(SinkhornRouter::new(params, name, dim, config)?)
            }
        })
    }

    /// Features of a token.
    fn dim(&self) -> usize {
        match self {
            Router::CoordinateDescent(router) => router.dim(),
            Router::CumulativeSoftmax(router) => router.dim(),
            Router::Sinkhorn(router) => router.dim(),
        }
    }

    /// [`forward`](Self::forward), but a sequence of no more than `num_tokens` is not routed, by no kind of router.
    #[track_caller]
    pub(super) fn forward_long<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &Route<'g>) -> Routed<'g> {
        if x.dim(1) > route.num_tokens || route.counts.is_some() {
            return self.forward(p, x, route);
        }
        check_call("router", x, self.dim(), route);
        Routed::whole(x, route.mask, 1).one_route()
    }

    /// Whether a token may be routed more than once.
    pub fn repeats(&self) -> bool {
        matches!(self, Router::Sinkhorn(_))
    }

    /// Routes tokens of `x` `[b, n, D]`.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, route: &Route<'g>) -> Routed<'g> {
        match self {
            Router::CoordinateDescent(router) => router.forward(p, x, route),
            Router::CumulativeSoftmax(router) => router.forward(p, x, route),
            Router::Sinkhorn(router) => router.forward(p, x, route),
        }
    }

    /// Routes tokens of sequences of `m` that lie in a table in pieces, as [`CoordinateDescentRouter::forward_sharded`]; no
    /// other router can.
    #[track_caller]
    pub fn forward_sharded<'g>(
        &self,
        p: &ParamVars<'g>,
        table: &Sharded<'g>,
        m: usize,
        route: &Route<'g>,
    ) -> Routed<'g> {
        if let Router::CoordinateDescent(router) = self {
            return router.forward_sharded(p, table, m, route);
        }
        refuse(p.graph(), "router: table in pieces", "only the coordinate-descent router routes one");
        Routed::nothing(p.graph(), table.ty().width())
    }
}
