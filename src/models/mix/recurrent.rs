//! Block recurrence as a layer's attention: a segment is a block.

use super::attention::{Attention, Cached, Past};
use super::config::MemoryConfig;
use crate::graph::Var;
use crate::models::parts::chosen;
use crate::models::recurrent::{
    self, AttentionBlock, AttentionBlockConfig, BlockCache, GateConfiguration, GateKind, Readable,
    StateContainerConfig, States,
};
use crate::nn::{ParamVars, Params};
use crate::types::TensorType;

/// Scale of the cosines of queries and keys: the package's own, which it does not use. Without it weights are almost equal.
const SCALE: Option<f64> = Some(8.0);

/// Block-recurrent attention: `keys` and `values` `[b, W, d]` of the segment before, and `states` `[b, N, D]`.
#[derive(Clone, Debug)]
pub(super) struct RecurrentAttention {
    block: AttentionBlock,
}

impl RecurrentAttention {
    /// Adds the parameters below `name`: a block of one bank of `states` vectors.
    pub fn new(
        params: &mut Params,
        name: &str,
        config: &MemoryConfig,
        states: usize,
        (gate, gates): (GateKind, GateConfiguration),
    ) -> Self {
        let (dim, heads, dim_head) = (config.dim, config.heads, config.dim_head());
        let states = StateContainerConfig {
            dim,
            num_state_vectors: states,
            dim_head,
            heads,
            qk_rmsnorm: true,
            qk_rmsnorm_scale: SCALE,
            gate,
            gates,
            ff_inner: config.inner(config.ff_mult),
            init_std: 0.1,
        };
        let block = AttentionBlockConfig {
            dim_head,
            heads,
            qk_rmsnorm: true,
            qk_rmsnorm_scale: SCALE,
            states: Some(states),
            state_reads: 1,
            ..AttentionBlockConfig::new(dim, config.segment)
        };
        RecurrentAttention { block: AttentionBlock::new(params, name, block) }
    }

    /// How many of the rows of the segment before there are.
    fn count<'g>(&self, seen: Var<'g>) -> Var<'g> {
        seen.minimum(seen.graph().full_u32([], self.block.config().block_width as u32))
    }

    /// Keys and values, states, and keys and values of those as tokens read them.
    fn parts<'g>(&self, cached: &Cached<'_, 'g>) -> Option<(BlockCache<'g>, Var<'g>, Readable<'g>)> {
        match *cached.values {
            [keys, turned, values, vectors, state_keys, state_values] => {
                let cache = BlockCache { keys, turned, values, count: self.count(cached.seen) };
                Some((cache, vectors, Readable { keys: state_keys, values: state_values }))
            }
            _ => None,
        }
    }
}

impl Attention for RecurrentAttention {
    fn carries(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let c = self.block.config();
        let memory = TensorType::f32([batch, c.block_width, c.dim_head]);
        let mut all = vec![("keys", memory.clone()), ("values", memory)];
        all.extend(self.block.states().map(|bank| ("states", bank.ty(batch))));
        all
    }

    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, past: Past<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let (memory, states) = match *past.values {
            [keys, values, vectors] => {
                let count = past.seen.map(|seen| self.count(seen));
                let states = States { vectors, written: past.seen.map(|seen| seen.gt(0)) };
                (Some(recurrent::Memory { keys, values, count }), Some(states))
            }
            _ => (None, None),
        };
        let bank = self.block.states();
        let view = bank.map(|bank| bank.view(p, states.as_ref()));
        let reads: Vec<_> =
            bank.zip(view.as_ref()).map(|(bank, view)| (bank, bank.readable(p, view))).into_iter().collect();
        let found = self.block.forward(p, x, memory.as_ref(), &reads, view.as_ref());
        let mut next = vec![found.memory.keys, found.memory.values];
        next.extend(found.states);
        (found.out, next)
    }

    fn cache(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let c = self.block.config();
        let rows = TensorType::f32([batch, 2 * c.block_width, c.dim_head]);
        let mut all: Vec<_> = ["keys", "turned", "values"].map(|part| (part, rows.clone())).into();
        if let Some(bank) = self.block.states() {
            let vectors = bank.ty(batch);
            let read = TensorType::f32([batch, vectors.shape[1], c.dim_head]);
            all.extend([("states", vectors), ("state_keys", read.clone()), ("state_values", read)]);
        }
        all
    }

    fn forward_cached<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, cached: &Cached<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let Some((cache, vectors, readable)) = self.parts(cached) else { return (x, Vec::new()) };
        let reads: Vec<_> = self.block.states().map(|bank| (bank, readable)).into_iter().collect();
        let (out, new) = self.block.forward_cached(p, x, cached.length, &cache, &reads);
        (out, vec![new.keys, new.turned, new.values, vectors, readable.keys, readable.values])
    }

    fn turn<'g>(&self, p: &ParamVars<'g>, cached: &Cached<'_, 'g>, full: Var<'g>) -> Vec<Var<'g>> {
        let (Some((cache, vectors, _)), Some(bank)) = (self.parts(cached), self.block.states()) else {
            return cached.values.to_vec();
        };
        let w = self.block.config().block_width;
        let part = |x: Var<'g>| (x.slice(1, 0, w), x.slice(1, w, w));
        let (keys, values) = (part(cache.keys), part(cache.values));
        let segment = recurrent::Memory { keys: keys.1, values: values.1, count: None };
        let written = cached.seen.gt(0);
        let view = bank.view(p, Some(&States { vectors, written: Some(written) }));
        let vectors = chosen(full, bank.write(p, &segment, &view), vectors);
        let readable = bank.readable(p, &bank.view(p, Some(&States { vectors, written: Some(written.or(full)) })));
        let [keys, values] = [keys, values].map(|(old, new)| chosen(full, new, old));
        let new = self.block.next_cache(p, &recurrent::Memory { keys, values, count: None }, &cache);
        vec![new.keys, new.turned, new.values, vectors, readable.keys, readable.values]
    }
}
