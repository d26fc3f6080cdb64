//! The kinds of feed-forward.

use super::config::{FeedForwardKind, MemoryConfig};
use super::router::CausalRouter;
use crate::error::Result;
use crate::graph::{Mode, Var};
use crate::models::parts::below;
use crate::models::product_key::{Lookup, ProductKeyConfig, ProductKeyMemory};
use crate::models::recurrent::FeedForward as Dense;
use crate::nn::{ParamVars, Params};
use crate::types::TensorType;

/// What follows attention in a layer.
#[derive(Clone, Debug)]
pub(super) enum FeedForward {
    Dense(Dense),
    /// `light(x) + gate heavy(x)`, the second part for chosen tokens; the light branch comes first.
    Routed {
        router: CausalRouter,
        branches: Box<[Dense; 2]>,
    },
    ProductKey(Box<ProductKeyMemory>),
}

impl FeedForward {
    /// Adds the parameters below `name`.
    pub fn new(params: &mut Params, name: &str, config: &MemoryConfig, kind: &FeedForwardKind) -> Result<Self> {
        let dim = config.dim;
        Ok(match *kind {
            FeedForwardKind::Dense => FeedForward::Dense(Dense::new(params, name, dim, config.inner(config.ff_mult))),
            FeedForwardKind::Routed { heavy_tokens, light_mult } => FeedForward::Routed {
                router: CausalRouter::new(params, &below(name, "router"), config, heavy_tokens),
                branches: Box::new(
                    [("light_ff", light_mult), ("heavy_ff", config.ff_mult)]
                        .map(|(part, mult)| Dense::new(params, &below(name, part), dim, config.inner(mult))),
                ),
            },
            FeedForwardKind::ProductKey { num_keys, topk, heads } => {
                let memory = ProductKeyConfig {
                    heads,
                    num_keys,
                    topk: topk.unwrap_or(num_keys.min(32)),
                    dim_head: dim.div_ceil(2),
                    pre_layernorm: true,
                    ..ProductKeyConfig::new(dim)
                };
                FeedForward::ProductKey(Box::new(ProductKeyMemory::new(params, name, memory)?))
            }
        })
    }

    /// `x` `[b, n, D]` to `[b, n, D]`, without residual.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        match self {
            FeedForward::Dense(dense) => dense.forward(p, x),
            FeedForward::Routed { router, branches } => {
                let [light, heavy] = &**branches;
                let chosen = router.forward(p, x);
                light.forward(p, x) + chosen.put(heavy.forward(p, chosen.take(x)), x.dim(1))
            }
            FeedForward::ProductKey(memory) => memory.forward(p, x, &Lookup::new(Mode::Eval, 0)),
        }
    }

    /// Names and types of what tokens need of those before them in their segment; what is in it at its start does not matter.
    pub fn cache(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        match self {
            FeedForward::Routed { router, .. } => router.cache(batch).into(),
            _ => Vec::new(),
        }
    }

    /// [`forward`](Self::forward) for the tokens that follow `length` (u32 `[b]`) ones of the segment, and the cache with them.
    #[track_caller]
    pub fn forward_cached<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        length: Var<'g>,
        cache: &[Var<'g>],
    ) -> (Var<'g>, Vec<Var<'g>>) {
        match self {
            FeedForward::Routed { router, branches } => {
                let [light, heavy] = &**branches;
                let (chosen, cache) = router.forward_cached(p, x, length, cache);
                (light.forward(p, x) + chosen.put(heavy.forward(p, chosen.take(x)), x.dim(1)), cache)
            }
            _ => (self.forward(p, x), Vec::new()),
        }
    }
}
