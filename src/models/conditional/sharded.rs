//! Routing of contexts too large for one binding, such as a million memories: only the scores and the routed rows are ever
//! in one piece.

use super::cross_attention::{ConditionalRoutedCrossAttention, CrossRoute};
use super::descent_router::{CoordinateDescentRouter, Rows};
use super::router::{Route, Routed};
use super::rows::{expect, take_mask};
use crate::error::Error;
use crate::graph::Var;
use crate::nn::{ParamVars, Sharded};
use crate::types::TensorType;

impl CoordinateDescentRouter {
    /// Scores `[1, r, rows]` of the rows of a table.
    #[track_caller]
    fn scores_sharded<'g>(&self, p: &ParamVars<'g>, table: &Sharded<'g>, route: &Route<'g>) -> Var<'g> {
        let tokens = self.own_tokens(p, 1, route);
        match self.config().similarity.scale(self.dim()) {
            None => table.score(tokens),
            // Rows are divided by their lengths after the product, not before: no second table.
            Some(scale) => {
                let lengths = table.sum_of_squares().maximum(1e-24).sqrt();
                table.score(tokens.l2_normalize(1e-12)) / lengths * scale
            }
        }
    }

    /// Routes rows of a table in pieces as [`forward`](Self::forward) routes those of a batch of one: what is given with
    /// `route` and what is returned has a first dimension of 1. Beside the table there are only scores, `r` a row, and the
    /// routed rows. A router whose routing tokens first query the tokens cannot do that.
    #[track_caller]
    pub fn forward_sharded<'g>(&self, p: &ParamVars<'g>, table: &Sharded<'g>, route: &Route<'g>) -> Routed<'g> {
        let (g, n, r) = (p.graph(), table.ty().rows(), self.config().num_routing_tokens);
        self.check_sharded(p, table, route);
        let mask = |given: Option<Var<'g>>| given.map(|mask| mask.unsqueeze(1).expand([1, r, n]));
        let routed = if n <= route.num_tokens && route.counts.is_none() {
            let tokens = table.gather(g.iota([1, r, n], 2));
            Routed { indices: None, scores: g.full([1, r, n], 1.0), tokens, mask: mask(route.mask) }
        } else {
            let chosen = self.select(&Rows {
                raw: self.scores_sharded(p, table, route),
                mask: mask(route.mask),
                num_tokens: route.num_tokens,
                counts: route.counts,
                soft_count: None,
                random: route.random_route.then_some(route.site),
            });
            let all = route.counts.filter(|_| route.mask.is_none()).map(|_| g.full_u32([1, n], 1));
            Routed {
                indices: Some(chosen.indices),
                scores: chosen.scores,
                tokens: table.gather(chosen.indices),
                mask: route.mask.or(all).map(|mask| take_mask(mask, chosen.indices, None)),
            }
        };
        if r == 1 && !route.keep_one_route_dim { routed.one_route() } else { routed }
    }

    fn check_sharded(&self, p: &ParamVars<'_>, table: &Sharded<'_>, route: &Route<'_>) {
        let (g, rows, width) = (p.graph(), table.ty().rows(), table.ty().width());
        let refuse = |what: &str, message: &str| g.fail(Error::argument(format!("router: {what}"), message));
        if width != self.dim() {
            refuse("table in pieces", &format!("expected rows of {}, got {width}", self.dim()));
        }
        if self.has_source() {
            refuse("source attention", "the routing tokens cannot query a table in pieces; leave it off");
        }
        if route.num_tokens == 0 {
            refuse("num_tokens", "is 0; expected at least 1");
        }
        if let Some(mask) = route.mask {
            expect(g, "router: mask of a table", mask, &TensorType::u32([1, rows]));
        }
        if let Some(counts) = route.counts {
            expect(g, "router: counts of a table", counts, &TensorType::u32([1]));
        }
    }
}

impl ConditionalRoutedCrossAttention {
    /// [`forward`](Self::forward) with one context for all samples, in pieces: `x` `[b, n, D]` attends to the rows of
    /// `context` `[m, D]`. `route.context` is about a batch of one: its mask is u32 `[1, m]`, passed routing tokens
    /// `[1, r, D]`. Only routed rows are normalized and projected; beside the context there are `r` scores a row, and what
    /// the operations on scores keep. The gradient of the context is dense, so ask for it only where it is learned.
    #[track_caller]
    pub fn forward_sharded<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        context: &Sharded<'g>,
        route: &CrossRoute<'g>,
    ) -> Var<'g> {
        let keys = self.heavy.kv_router.forward_sharded(p, context, &route.context);
        self.heavy.attend(p, x, &route.queries, &keys, context.ty().rows())
    }
}
