//! Infini-attention as a layer's attention.

use super::attention::{Attention, Cached, Past};
use super::config::MemoryConfig;
use crate::graph::{Mode, Var};
use crate::models::infini::{self, CausalAttention, InfiniConfig};
use crate::models::parts::chosen;
use crate::nn::{ParamVars, Params};
use crate::types::TensorType;

/// Infini-attention: `kv` `[b, h, d, d]` and `norm` `[b, h, d]`.
#[derive(Clone, Debug)]
pub(super) struct InfiniAttention {
    attention: CausalAttention,
    config: InfiniConfig,
    segment: usize,
}

impl InfiniAttention {
    /// Adds the parameters below `name`.
    pub fn new(params: &mut Params, name: &str, config: &MemoryConfig, delta_rule: bool, head_gate: f64) -> Self {
        let segment = config.segment;
        let config = InfiniConfig {
            heads: config.heads,
            dim_head: config.dim_head(),
            use_mem_delta_rule: delta_rule,
            head_gate_init_value: head_gate,
            ..InfiniConfig::new(config.num_tokens, config.dim, 1)
        };
        let attention = CausalAttention::new(format!("{name}."), &config, 0);
        attention.declare(params);
        InfiniAttention { attention, config, segment }
    }

    /// Memory and cache of the segment.
    fn parts<'g>(cached: &Cached<'_, 'g>) -> Option<(infini::Memory<'g>, infini::Cache<'g>)> {
        match *cached.values {
            [kv, norm, keys, turned, values] => {
                Some((infini::Memory { kv, norm }, infini::Cache { keys: Some(keys), turned, values, beta: None }))
            }
            _ => None,
        }
    }
}

impl Attention for InfiniAttention {
    fn carries(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let (h, d) = (self.config.heads, self.config.dim_head);
        vec![("kv", TensorType::f32([batch, h, d, d])), ("norm", TensorType::f32([batch, h, d]))]
    }

    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, past: Past<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let written = past.seen.map(|seen| seen.gt(0));
        let memory = match *past.values {
            [kv, norm] => {
                // A text that begins anew does not add to what the last one left.
                let own = |x: Var<'g>, shape: &[usize]| written.map_or(x, |w| w.reshape(shape).select(x, 0.0));
                let b = x.dim(0);
                let memory = infini::Memory { kv: own(kv, &[b, 1, 1, 1]), norm: own(norm, &[b, 1, 1]) };
                Some((memory, written))
            }
            _ => None,
        };
        let (out, next) = self.attention.forward_from(p, x, memory, true, Mode::Eval, 0);
        (out, next.map_or(Vec::new(), |next| vec![next.kv, next.norm]))
    }

    fn cache(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let rows = TensorType::f32([batch, self.config.heads, self.segment, self.config.dim_head]);
        let mut all = self.carries(batch);
        all.extend(["keys", "turned", "values"].map(|part| (part, rows.clone())));
        all
    }

    fn forward_cached<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, cached: &Cached<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let Some((memory, cache)) = Self::parts(cached) else { return (x, Vec::new()) };
        let past = Some((memory, cached.seen.gt(0)));
        let (out, new) = self.attention.forward_cached(p, x, cache, cached.length, past);
        let mut all = vec![memory.kv, memory.norm];
        all.extend(new.keys.into_iter().chain([new.turned, new.values]));
        (out, all)
    }

    fn turn<'g>(&self, p: &ParamVars<'g>, cached: &Cached<'_, 'g>, full: Var<'g>) -> Vec<Var<'g>> {
        let mut all = cached.values.to_vec();
        if let Some((memory, cache)) = Self::parts(cached) {
            let new = self.attention.write_cached(p, cache, Some(memory));
            let new = [chosen(full, new.kv, memory.kv), chosen(full, new.norm, memory.norm)];
            all.splice(..2, new);
        }
        all
    }
}
