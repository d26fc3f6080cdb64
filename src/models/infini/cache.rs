//! Attention with cached keys and values: one plan for a text of any length.

use super::attention::CausalAttention;
use super::memory::Memory;
use super::{InfiniConfig, MemoryPath};
use crate::graph::{Graph, Var};
use crate::nn::ParamVars;
use crate::ops::attention::Attention;

/// Keys and values of the current segment of one layer, up to a fixed capacity.
#[derive(Clone, Copy)]
pub struct Cache<'g> {
    /// Keys as the memory takes them, `[b, h, capacity, d]`; absent where those are the rotated ones.
    pub keys: Option<Var<'g>>,
    /// Rotated keys, `[b, h, capacity, d]`.
    pub turned: Var<'g>,
    /// Values, `[b, h, capacity, d]`.
    pub values: Var<'g>,
    /// Write strengths, `[b, h, capacity, 1]`, with a learned update.
    pub beta: Option<Var<'g>>,
}

impl<'g> Cache<'g> {
    /// A cache of zeros.
    pub fn empty(graph: &'g Graph, config: &InfiniConfig, batch: usize, capacity: usize) -> Self {
        let rows = |width| graph.full([batch, config.heads, capacity, width], 0.0);
        Cache {
            keys: (config.memory_path == MemoryPath::Plain).then(|| rows(config.dim_head)),
            turned: rows(config.dim_head),
            values: rows(config.dim_head),
            beta: config.learned_delta_update.then(|| rows(1)),
        }
    }
}

impl CausalAttention {
    /// Attention of new tokens `x` `[b, w, D]` after `length` `[b]` (u32) cached ones, and the cache with the new ones in it.
    /// Tokens past the capacity are not cached. `past` is a memory and, per entry, whether anything was written to it yet
    /// (u32 `[b]`): where not, the local output stays as it is.
    #[track_caller]
    pub fn forward_cached<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        cache: Cache<'g>,
        length: Var<'g>,
        past: Option<(Memory<'g>, Var<'g>)>,
    ) -> (Var<'g>, Cache<'g>) {
        let (b, w) = (x.dim(0), x.dim(1));
        let heads = self.project(p, x);
        let positions = length.reshape([b, 1]) + x.graph().iota([b, w], 1);
        let turned = self.turn(heads.q, heads.k, positions, positions);
        let join = |old: Option<Var<'g>>, new: Option<Var<'g>>| Some(old?.write_rows(new?, length));
        let cache = Cache {
            keys: join(cache.keys, Some(turned.memory_k)),
            turned: cache.turned.write_rows(turned.k, length),
            values: cache.values.write_rows(heads.v, length),
            beta: join(cache.beta, heads.beta),
        };
        let valid = Some(length + w as u32);
        let options = Attention { scale: Some(1.0), causal: true, valid, ..Default::default() };
        let mut out = turned.q.attention(cache.turned, cache.values, &options).out;
        if let Some((memory, written)) = past {
            let mixed = self.memory.retrieve_and_combine(p, out, turned.memory_q, memory);
            out = written.reshape([b, 1, 1, 1]).select(mixed, out);
        }
        (self.out(p, out), cache)
    }

    /// The memory after a full cache was written to it.
    #[track_caller]
    pub fn write_cached<'g>(&self, p: &ParamVars<'g>, cache: Cache<'g>, past: Option<Memory<'g>>) -> Memory<'g> {
        let (keys, values) = self.written(p, cache.keys.unwrap_or(cache.turned), cache.values);
        self.memory.update(keys, values, cache.beta, past)
    }
}
