//! Routing of contexts too large for one binding, such as a million memories: only the scores and the routed rows are ever
//! in one piece.

use super::cross_attention::{ConditionalRoutedCrossAttention, CrossRoute};
use super::descent_router::{CoordinateDescentRouter, Rows};
use super::router::{Route, Routed};
use super::rows::{expect, flat, refuse, take_mask};
use crate::graph::Var;
use crate::nn::{ParamVars, Sharded};
use crate::types::TensorType;

/// How many contexts of `m` rows a table holds.
fn contexts(table: &Sharded<'_>, m: usize) -> usize {
    table.ty().rows().checked_div(m).unwrap_or(1)
}

impl CoordinateDescentRouter {
    /// Scores `[c, r, m]` of the rows of a table `[c m, D]`.
    #[track_caller]
    fn scores_sharded<'g>(&self, p: &ParamVars<'g>, table: &Sharded<'g>, m: usize, route: &Route<'g>) -> Var<'g> {
        let tokens = self.own_tokens(p, 1, route);
        let scores = match self.config().similarity.scale(self.dim()) {
            None => table.score(tokens),
            // Rows are divided by their lengths after the product, not before: no second table.
            Some(scale) => {
                let lengths = table.sum_of_squares().maximum(1e-24).sqrt();
                table.score(tokens.l2_normalize(1e-12)) / lengths * scale
            }
        };
        scores.reshape([tokens.dim(1), contexts(table, m), m]).transpose(0, 1)
    }

    /// Routes tokens of c sequences of `m`, one after the other in a table `[c m, D]` in pieces, as
    /// [`forward`](Self::forward) does those of a batch of c. Beside the table there are only scores, `r` a row, and the
    /// routed rows. A router whose routing tokens first query the tokens cannot do that; passed routing tokens are
    /// `[1, r, D]`, the same for all sequences.
    #[track_caller]
    pub fn forward_sharded<'g>(
        &self,
        p: &ParamVars<'g>,
        table: &Sharded<'g>,
        m: usize,
        route: &Route<'g>,
    ) -> Routed<'g> {
        let (g, c, r) = (p.graph(), contexts(table, m), self.config().num_routing_tokens);
        if !self.check_sharded(p, table, m, route) {
            return Routed::nothing(g, self.dim());
        }
        let mask = |given: Option<Var<'g>>| given.map(|mask| mask.unsqueeze(1).expand([c, r, m]));
        let rows = |indices| table.gather(flat(indices, c, m, None));
        let routed = if m <= route.num_tokens && route.counts.is_none() {
            let tokens = rows(g.iota([c, r, m], 2));
            Routed { indices: None, scores: g.full([c, r, m], 1.0), tokens, mask: mask(route.mask) }
        } else {
            let chosen = self.select(&Rows {
                raw: self.scores_sharded(p, table, m, route),
                mask: mask(route.mask),
                num_tokens: route.num_tokens,
                counts: route.counts,
                soft_count: None,
                random: route.random_route.then_some(route.site),
            });
            let all = route.counts.filter(|_| route.mask.is_none()).map(|_| g.full_u32([c, m], 1));
            Routed {
                indices: Some(chosen.indices),
                scores: chosen.scores,
                tokens: rows(chosen.indices),
                mask: route.mask.or(all).map(|mask| take_mask(mask, chosen.indices, None)),
            }
        };
        if r == 1 && !route.keep_one_route_dim { routed.one_route() } else { routed }
    }

    /// Refuses what cannot be routed, in which case it is false.
    #[track_caller]
    fn check_sharded(&self, p: &ParamVars<'_>, table: &Sharded<'_>, m: usize, route: &Route<'_>) -> bool {
        let (g, rows, width, c) = (p.graph(), table.ty().rows(), table.ty().width(), contexts(table, m));
        if width != self.dim() {
            refuse(g, "router: table in pieces", format!("expected rows of {}, got {width}", self.dim()));
        }
        if c.checked_mul(m) != Some(rows) {
            refuse(g, "router: table in pieces", format!("{rows} rows are no whole number of contexts of {m}"));
        }
        if self.has_source() {
            refuse(g, "router: source attention", "the routing tokens cannot query a table in pieces; leave it off");
        }
        if self.source_rows(c).is_some() {
            refuse(
                g,
                "router: gather_across_samples",
                "several contexts in pieces keep to their own rows; leave it off",
            );
        }
        if route.num_tokens == 0 {
            refuse(g, "router: num_tokens", "is 0; expected at least 1");
        }
        if let Some(mask) = route.mask {
            expect(g, "router: mask of a table", mask, &TensorType::u32([c, m]));
        }
        if let Some(counts) = route.counts {
            expect(g, "router: counts of a table", counts, &TensorType::u32([c]));
        }
        g.error().is_none()
    }
}

impl ConditionalRoutedCrossAttention {
    /// [`forward`](Self::forward) with contexts in pieces: `context` `[c m, D]` is c contexts of `m` rows, one for each
    /// sample of `x` `[b, n, D]`, or one for all. `route.context` is about a batch of c: its mask is u32 `[c, m]`, passed
    /// routing tokens `[1, r, D]`. Only routed rows are normalized and projected; beside the contexts there are `r` scores a
    /// row, and what the operations on scores keep. Keys and values need a coordinate-descent router. The gradient of the
    /// contexts is dense, so ask for it only where they are learned.
    #[track_caller]
    pub fn forward_sharded<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        context: &Sharded<'g>,
        m: usize,
        route: &CrossRoute<'g>,
    ) -> Var<'g> {
        let queries = Route { keep_one_route_dim: false, ..route.queries };
        let queries = self.heavy.q_router.forward_long(p, x, &queries);
        let keys = self.heavy.kv_router.forward_sharded(p, context, m, &route.context);
        self.heavy.attend(p, &queries, &keys, x.dim(1), m)
    }
}
