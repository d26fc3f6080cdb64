//! The decoder's attention with cached keys: a text of any length by two plans.
//!
//! Which tokens of the current window are routed changes with each new token, so the window is computed again as a whole at
//! every step; what lies before it is settled, and cached: tokens for the router, keys and values of the light branch, and
//! the routed keys and values that the current window sees.

use super::autoregressive::ConditionalRoutedAutoregressiveAttention;
use super::descent_router::Rows;
use super::heavy_attention::{Context, Keys};
use super::router::Route;
use super::rows::{expect, refuse, take, take_mask};
use crate::graph::{Graph, Var};
use crate::nn::ParamVars;
use crate::types::TensorType;

/// What one layer keeps of a text, up to a fixed capacity.
#[derive(Clone, Copy)]
pub struct AutoregressiveCache<'g> {
    /// Tokens, `[b, capacity, D]`.
    pub tokens: Var<'g>,
    /// Keys of the light branch, `[b, light heads, capacity, d]`.
    pub light_keys: Var<'g>,
    /// Values of the light branch, `[b, light heads, capacity, d]`.
    pub light_values: Var<'g>,
    /// Routed keys that the current window sees, `[b, heavy heads, k, d]`, turned to their positions.
    pub heavy_keys: Var<'g>,
    /// Routed values that the current window sees, `[b, heavy heads, k, d]`.
    pub heavy_values: Var<'g>,
    /// Which of them exist, u32 0/1 `[b, routes, k]`.
    pub heavy_mask: Var<'g>,
}

impl<'g> AutoregressiveCache<'g> {
    /// All parts, for states of one's own; [`from_parts`](Self::from_parts) is the way back.
    pub fn parts(&self) -> [Var<'g>; 6] {
        [self.tokens, self.light_keys, self.light_values, self.heavy_keys, self.heavy_values, self.heavy_mask]
    }

    /// A cache of parts as [`parts`](Self::parts) gives them, of the types of
    /// [`cache_types`](ConditionalRoutedAutoregressiveAttention::cache_types).
    pub fn from_parts(parts: [Var<'g>; 6]) -> Self {
        let [tokens, light_keys, light_values, heavy_keys, heavy_values, heavy_mask] = parts;
        AutoregressiveCache { tokens, light_keys, light_values, heavy_keys, heavy_values, heavy_mask }
    }
}

impl ConditionalRoutedAutoregressiveAttention {
    /// Names and types of a cache of `batch` texts of up to `capacity` tokens, in the order of
    /// [`AutoregressiveCache::parts`]. An empty cache is all zeros.
    pub fn cache_types(&self, batch: usize, capacity: usize) -> [(&'static str, TensorType); 6] {
        let a = &self.config.attention;
        let light = [batch, a.light_heads, capacity, a.light_dim_head];
        let k = a.num_heavy_tokens_kv.min(capacity);
        let heavy = [batch, a.heavy_heads, k, a.heavy_dim_head];
        [
            ("tokens", TensorType::f32([batch, capacity, a.dim])),
            ("light_keys", TensorType::f32(light)),
            ("light_values", TensorType::f32(light)),
            ("heavy_keys", TensorType::f32(heavy)),
            ("heavy_values", TensorType::f32(heavy)),
            ("heavy_mask", TensorType::u32([batch, a.num_routed_kv, k])),
        ]
    }

    /// Refuses routers whose choice depends on more than the scores that are cached.
    #[track_caller]
    fn check_cached(&self, g: &Graph, cache: &AutoregressiveCache<'_>) {
        let config = self.kv_router.config();
        let reason = if config.route_block_size.is_some() {
            "routing in blocks depends on the length of the whole text"
        } else if config.gather_across_samples && (config.num_routing_tokens > 1) {
            "gather_across_samples reads other texts"
        } else if !cache.tokens.dim(1).is_multiple_of(self.config.window()) {
            "the capacity must be a multiple of the window"
        } else {
            let types = self.cache_types(cache.tokens.dim(0), cache.tokens.dim(1));
            for (part, (name, ty)) in cache.parts().into_iter().zip(types) {
                expect(g, &format!("cache: {name}"), part, &ty);
            }
            return;
        };
        refuse(g, "cached autoregressive attention", reason);
    }

    /// Attention of the current window `x` `[b, w, D]`, of which the first `count` (u32 `[b]`) tokens have come, after `filled`
    /// (u32 `[b]`, a multiple of w) tokens of complete windows: `[b, w, D]`, whose rows from `count` on are meaningless. Equal
    /// to [`forward`](Self::forward) on the text so far. Also the cache with the window in it, to be kept: later steps of the
    /// same window overwrite it.
    #[track_caller]
    pub fn forward_cached<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        count: Var<'g>,
        filled: Var<'g>,
        cache: AutoregressiveCache<'g>,
    ) -> (Var<'g>, AutoregressiveCache<'g>) {
        let (g, b, w) = (x.graph(), x.dim(0), self.config.window());
        let a = &self.config.attention;
        self.check_cached(g, &cache);
        expect(g, "cached window", x, &TensorType::f32([b, w, a.dim]));
        expect(g, "cached window: count", count, &TensorType::u32([b]));
        expect(g, "cached window: filled", filled, &TensorType::u32([b]));
        let (light, light_keys, light_values) = self.light_cached(p, x, filled, &cache);
        let mask = g.iota([b, w], 1).lt(count.unsqueeze(1));
        let queries = self.q_router.forward(p, x, &Route { mask: Some(mask), ..Route::new(a.num_heavy_tokens_q) });
        let positions = a.rotary_emb.then(|| {
            let place = queries.indices.unwrap_or_else(|| g.iota([b, w], 1));
            filled.unsqueeze(1) + place
        });
        let scores = queries.indices.filter(|_| a.multiply_queries_by_score).map(|_| queries.scores);
        let keys =
            Keys { k: cache.heavy_keys, v: cache.heavy_values, mask: Some(cache.heavy_mask), routes: a.num_routed_kv };
        let out = self.heavy.attend(p, self.heavy.queries(p, queries.tokens, scores, positions), &keys);
        let out = self.place(p, out, &queries, w);
        // The first window has no earlier one to attend to.
        let out = light + out.keep_where(filled.gt(0).reshape([b, 1, 1]), 0.0);
        let tokens = cache.tokens.write_rows(x, filled);
        (out, AutoregressiveCache { tokens, light_keys, light_values, ..cache })
    }

    /// The light branch for the current window, and the cache's keys and values with those of the window.
    fn light_cached<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        filled: Var<'g>,
        cache: &AutoregressiveCache<'g>,
    ) -> (Var<'g>, Var<'g>, Var<'g>) {
        let (g, b, w) = (x.graph(), x.dim(0), self.config.window());
        let block = self.config.attention.light_window_size;
        let [q, k, v] = self.light.project(p, x);
        let keys = cache.light_keys.write_rows(k, filled);
        let values = cache.light_values.write_rows(v, filled);
        // All that the window may see: from the block before the window's first on.
        let first = (filled / block as u32).maximum(1) - 1;
        let start = first * block as u32;
        let span = (2 * block - 1 + w).min(cache.tokens.dim(1));
        let key = start.reshape([b, 1, 1]) + g.iota([b, 1, span], 2);
        let query = filled.reshape([b, 1, 1]) + g.iota([b, w, 1], 1);
        let near = (key / block as u32 + 1).ge(query / block as u32);
        let seen = near.and(key.le(query)).unsqueeze(1);
        let scale = 1.0 / (q.dim(3).max(1) as f64).sqrt();
        let scores = q.matmul(keys.take_rows(start, span).transpose(2, 3)) * scale;
        let shares = scores.keep_where(seen, f64::from(f32::MIN)).softmax(3);
        (self.light.merge(p, shares.matmul(values.take_rows(start, span))), keys, values)
    }

    /// The cache for the window after `filled` (u32 `[b]`, a multiple of w) tokens: routes the cached tokens and keeps the keys
    /// and values of those that were chosen. To be called whenever a window is complete, before the next one begins.
    #[track_caller]
    pub fn next_window<'g>(
        &self,
        p: &ParamVars<'g>,
        cache: AutoregressiveCache<'g>,
        filled: Var<'g>,
    ) -> AutoregressiveCache<'g> {
        let a = &self.config.attention;
        let (g, b, capacity) = (filled.graph(), cache.tokens.dim(0), cache.tokens.dim(1));
        self.check_cached(g, &cache);
        expect(g, "next window: filled", filled, &TensorType::u32([b]));
        let (r, k) = (a.num_routed_kv, a.num_heavy_tokens_kv);
        let past = g.iota([b, capacity], 1).lt(filled.unsqueeze(1));
        let context = if capacity <= k {
            let tokens = cache.tokens.unsqueeze(1).expand([b, r, capacity, a.dim]);
            let mask = past.unsqueeze(1).expand([b, r, capacity]);
            let positions = a.rotary_emb.then(|| g.iota([capacity], 0));
            Context { tokens: Some(tokens), mask: Some(mask), scores: None, positions }
        } else {
            let raw = self.kv_router.scores(p, cache.tokens, &Route::new(k));
            // The text as the uncached path sees it: up to the end of the window that begins.
            let length = filled + self.config.window() as u32;
            let ratio = self.kv_router.config().fetch_k_ratio;
            let soft_count = length.to_f32().minimum(k as f64 * ratio);
            let chosen = self.kv_router.select(&Rows {
                raw,
                mask: Some(past.unsqueeze(1).expand([b, r, capacity])),
                num_tokens: k,
                counts: None,
                soft_count: Some(soft_count),
                random: None,
            });
            // Not longer than k: nothing is routed, all scores are 1.
            let scores = length.le(k as u32).reshape([b, 1, 1]).select(1.0, chosen.scores);
            Context {
                tokens: Some(take(cache.tokens, chosen.indices, None)),
                mask: Some(take_mask(past, chosen.indices, None)),
                scores: Some(scores),
                positions: a.rotary_emb.then_some(chosen.indices),
            }
        };
        let Some(tokens) = context.tokens else { return cache };
        let keys = self.heavy.keys(p, tokens, &context);
        AutoregressiveCache {
            heavy_keys: keys.k,
            heavy_values: keys.v,
            heavy_mask: keys.mask.unwrap_or(cache.heavy_mask),
            ..cache
        }
    }
}
