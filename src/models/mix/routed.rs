//! CoLT5's attention for decoders, over a bounded past.

use super::attention::{Attention, Cached, Past};
use super::config::MemoryConfig;
use super::router::CausalRouter;
use super::window::WindowAttention;
use crate::error::Result;
use crate::graph::Var;
use crate::models::long_memory::{RoutedMemory, RoutedMemoryConfig};
use crate::models::parts::below;
use crate::nn::{ParamVars, Params};
use crate::types::TensorType;

/// A light attention of all tokens to their window, plus a heavy one of chosen tokens to chosen inputs of the segments before
/// (Ainslie et al. 2023, arXiv 2303.09752). Queries are chosen without looking ahead, and keys from a ring of past inputs, so
/// that a text may be of any length. Parameters below its name: `light_attn.*`, `q_router.*` where queries are chosen, and
/// `heavy.*` (a [`RoutedMemory`]).
#[derive(Clone, Debug)]
pub(super) struct RoutedAttention {
    light: WindowAttention,
    queries: Option<CausalRouter>,
    heavy: RoutedMemory,
}

impl RoutedAttention {
    /// Adds the parameters of all but the light branch below `name`; `keys` are how many inputs are kept, and how many chosen.
    pub fn new(
        params: &mut Params,
        name: &str,
        config: &MemoryConfig,
        light: WindowAttention,
        keys: (usize, usize),
        queries: Option<usize>,
    ) -> Result<Self> {
        let queries = queries.filter(|queries| *queries < config.segment);
        let queries = queries.map(|most| CausalRouter::new(params, &below(name, "q_router"), config, most));
        let memory = RoutedMemoryConfig {
            heads: config.heads,
            dim_head: config.dim_head(),
            // As in CoLT5, where the routing token is the same for all segments.
            lookback: None,
            ..RoutedMemoryConfig::new(config.dim, keys.0, keys.1)
        };
        let heavy = RoutedMemory::new(params, &below(name, "heavy"), memory)?;
        Ok(RoutedAttention { light, queries, heavy })
    }
}

impl Attention for RoutedAttention {
    fn carries(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        self.light.carries(batch)
    }

    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, past: Past<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let (light, next) = self.light.forward(p, x, past);
        let Some(memory) = past.memory else { return (light, next) };
        let heavy = match &self.queries {
            None => self.heavy.forward(p, x, memory),
            Some(router) => {
                let chosen = router.forward(p, x);
                chosen.put(self.heavy.forward(p, chosen.take(x), memory), x.dim(1))
            }
        };
        (light + heavy, next)
    }

    fn memory(&self) -> Option<&RoutedMemory> {
        Some(&self.heavy)
    }

    fn cache(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let mut all = self.light.cache(batch);
        all.extend(self.queries.iter().flat_map(|router| router.cache(batch)));
        all
    }

    fn forward_cached<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, cached: &Cached<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let (light_cache, router_cache) = cached.values.split_at(self.light.parts().min(cached.values.len()));
        let (light, mut next) = self.light.forward_cached(p, x, &Cached { values: light_cache, ..*cached });
        let Some(recalled) = &cached.recalled else { return (light, next) };
        let heavy = match &self.queries {
            None => self.heavy.attend(p, x, None, recalled),
            Some(router) => {
                let (chosen, cache) = router.forward_cached(p, x, cached.length, router_cache);
                next.extend(cache);
                chosen.put(self.heavy.attend(p, chosen.take(x), None, recalled), x.dim(1))
            }
        };
        (light + heavy, next)
    }

    fn turn<'g>(&self, p: &ParamVars<'g>, cached: &Cached<'_, 'g>, full: Var<'g>) -> Vec<Var<'g>> {
        let (light, router) = cached.values.split_at(self.light.parts().min(cached.values.len()));
        let mut next = self.light.turn(p, &Cached { values: light, ..*cached }, full);
        // The router begins at the first token, and does not look at what is behind it.
        next.extend(router);
        next
    }
}
