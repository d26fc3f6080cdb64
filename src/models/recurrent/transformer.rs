//! The transformer: embedding, layers, logits; a call reads block after block.

use super::attention::AttentionBlock;
use super::config::BlockRecurrentConfig;
use super::feed_forward::FeedForward;
use super::memory::{Compression, Memory};
use super::norm::Norm;
use super::state::{Readable, StateContainer, States};
use crate::error::Result;
use crate::graph::Var;
use crate::models::long_memory::{LongMemory, RoutedMemory};
use crate::models::parts::{expect, refuse};
use crate::nn::{Embedding, Linear, ParamVars, Params};
use crate::types::{DType, TensorType};

/// What one call hands to the next. The default is the start of a text.
#[derive(Clone, Debug, Default)]
pub struct Carried<'g> {
    /// One a layer that remembers, in order; none at the start of a text.
    pub memories: Vec<Memory<'g>>,
    /// One a layer that writes states, in order; none at the start of a text.
    pub states: Vec<States<'g>>,
    /// One a layer with a [`long_memory`](BlockRecurrentConfig::long_memory), in order; none at the start of a text. What they
    /// keep is detached in any case.
    pub long: Vec<LongMemory<'g>>,
}

impl Carried<'_> {
    /// The same numbers, cut from the graph: truncated backpropagation.
    pub fn detach(&self) -> Self {
        Carried {
            memories: self.memories.iter().map(Memory::detach).collect(),
            states: self.states.iter().map(|s| States { vectors: s.vectors.stop_gradient(), ..*s }).collect(),
            long: self.long.clone(),
        }
    }
}

/// A block-recurrent transformer. It holds no values: parameters live in [`Params`] and a store, under the package's names.
#[derive(Clone, Debug)]
pub struct BlockRecurrentTransformer {
    config: BlockRecurrentConfig,
    params: Params,
    tokens: Embedding,
    pub(super) layers: Vec<Layer>,
    /// Reading layer (from 0) and writing layer of each bank of states.
    banks: Vec<(usize, usize)>,
    norm: Norm,
    to_logits: Linear,
}

/// One layer.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub attention: AttentionBlock,
    pub feed_forward: FeedForward,
    /// Whether it remembers keys and values.
    pub remembers: bool,
    pub compression: Option<Compression>,
    pub long: Option<RoutedMemory>,
}

impl BlockRecurrentTransformer {
    /// A model.
    ///
    /// # Errors
    /// As [`BlockRecurrentConfig::check`].
    pub fn new(config: BlockRecurrentConfig) -> Result<Self> {
        config.check()?;
        let (dim, mut params) = (config.dim, Params::new(0));
        let tokens = Embedding::new(&mut params, "token_emb", config.num_tokens, dim);
        let mut layers = Vec::new();
        for i in 0..config.depth {
            let attention = AttentionBlock::new(&mut params, &format!("layers.{i}.0"), config.attention(i + 1));
            let feed_forward = FeedForward::new(&mut params, &format!("layers.{i}.1"), dim, config.ff_inner());
            let long = match config.long_memory(i + 1) {
                Some(long) => Some(RoutedMemory::new(&mut params, &format!("layers.{i}.long_memory"), long.clone())?),
                None => None,
            };
            let remembers = config.remembers(i + 1);
            layers.push(Layer { attention, feed_forward, remembers, compression: None, long });
        }
        if let Some(factor) = config.compressed_mem_factor {
            for (i, layer) in layers.iter_mut().filter(|layer| layer.remembers).enumerate() {
                let name = format!("mem_manager.layers.{i}.1.1");
                let compression = Compression::new(&mut params, &name, config.dim_head, factor, config.block_width);
                layer.compression = Some(compression);
            }
        }
        let norm = Norm::new(&mut params, "to_logits.0", dim);
        let to_logits = Linear::new(&mut params, "to_logits.1", dim, config.num_tokens, false);
        let banks = config.banks().into_iter().map(|(writer, reader)| (reader - 1, writer - 1)).collect();
        Ok(BlockRecurrentTransformer { config, params, tokens, layers, banks, norm, to_logits })
    }

    /// Fresh parameters: embedding and state positions N(0, 1), linear maps and convolutions uniform within 1/sqrt(inputs),
    /// gains 1, first states and gates N(0, [`init_std`](BlockRecurrentConfig::init_std)).
    pub fn init(&self, seed: u64) -> Params {
        self.params.clone().with_seed(seed)
    }

    /// The options.
    pub fn config(&self) -> &BlockRecurrentConfig {
        &self.config
    }

    /// The banks of states in the order of their writers.
    pub(super) fn state_containers(&self) -> impl Iterator<Item = &StateContainer> {
        self.layers.iter().filter_map(|layer| layer.attention.states())
    }

    /// Layers (from 0) with a long memory.
    pub(super) fn long_memories(&self) -> impl Iterator<Item = (usize, &RoutedMemory)> {
        self.layers.iter().enumerate().filter_map(|(i, layer)| Some((i, layer.long.as_ref()?)))
    }

    /// The banks that layer `i` reads, out of all.
    pub(super) fn reads<'a, 'g>(&'a self, i: usize, all: &[Readable<'g>]) -> Vec<(&'a StateContainer, Readable<'g>)> {
        let banks = self.banks.iter().zip(self.state_containers().zip(all));
        banks.filter(|((reader, _), _)| *reader == i).map(|(_, (bank, states))| (bank, *states)).collect()
    }

    /// Features of ids u32, any shape; ids outside the vocabulary become zeros.
    #[track_caller]
    pub(super) fn embed<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.tokens.forward(p, ids)
    }

    /// Logits `[.., num_tokens]` of features `[.., D]`.
    #[track_caller]
    pub(super) fn logits<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        self.to_logits.forward(p, self.norm.forward(p, x))
    }

    /// Refuses ids and carried values that do not fit the model.
    #[track_caller]
    fn check(&self, ids: Var<'_>, carried: &Carried<'_>) {
        let (g, c, b, n) = (ids.graph(), &self.config, ids.dim(0), ids.dim(1));
        let what = "BlockRecurrentTransformer::forward";
        if ids.dtype() != DType::U32 || ids.rank() != 2 {
            return refuse(g, what, format!("expected ids u32 [batch, n], got {}", ids.ty()));
        }
        if n == 0 || n > c.max_seq_len {
            let message = format!("a call reads 1 to {} tokens (max_seq_len), got {n}", c.max_seq_len);
            return refuse(g, what, format!("{message}; cut the text and hand memories and states on"));
        }
        for (kind, got, want) in [
            ("memories", carried.memories.len(), c.memories()),
            ("states", carried.states.len(), self.state_containers().count()),
            ("long memories", carried.long.len(), self.long_memories().count()),
        ] {
            if got != 0 && got != want {
                let message = format!("{got} {kind} for {want} layers that have them; pass one each, or none");
                return refuse(g, what, message);
            }
        }
        for (i, memory) in carried.memories.iter().enumerate() {
            let (rows, most) = (memory.rows(), c.memory_rows());
            if rows > most {
                return refuse(g, what, format!("memory {i} has {rows} rows; expected at most {most}"));
            }
            for (what, var) in [("keys", memory.keys), ("values", memory.values)] {
                expect(g, &format!("memory {i}: {what}"), var, &TensorType::f32([b, rows, c.dim_head]));
            }
            if let Some(count) = memory.count {
                expect(g, &format!("memory {i}: count"), count, &TensorType::u32([b]));
            }
        }
        if let Some(long) = carried.long.iter().find(|long| long.batch() != b) {
            return refuse(g, what, format!("a long memory of {} texts for {b} texts", long.batch()));
        }
        for (i, (states, bank)) in carried.states.iter().zip(self.state_containers()).enumerate() {
            expect(g, &format!("states {i}"), states.vectors, &bank.ty(b));
            if let Some(written) = states.written {
                expect(g, &format!("states {i}: written"), written, &TensorType::u32([b]));
            }
        }
    }

    /// One block of features `x` `[b, n, D]`, n at most the width, and what it hands to the next; nothing is cut from the graph.
    #[track_caller]
    pub(super) fn block<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, carried: &Carried<'g>) -> (Var<'g>, Carried<'g>) {
        let (g, full) = (x.graph(), x.dim(1) == self.config.block_width);
        let view = |(i, bank): (usize, &StateContainer)| bank.view(p, carried.states.get(i));
        let views: Vec<_> = self.state_containers().enumerate().map(view).collect();
        let readable: Vec<_> = self.state_containers().zip(&views).map(|(bank, view)| bank.readable(p, view)).collect();
        let (mut x, mut next) = (x, Carried::default());
        let (mut past, mut long) = (carried.memories.iter(), carried.long.iter());
        for (i, layer) in self.layers.iter().enumerate() {
            let reads = self.reads(i, &readable);
            let past = if layer.remembers { past.next() } else { None };
            let own = layer.attention.states().and_then(|_| views.get(next.states.len()));
            let long = layer
                .long
                .as_ref()
                .map(|layer| (layer, long.next().cloned().unwrap_or_else(|| layer.fresh(g, x.dim(0)))));
            let step = || {
                let attended = layer.attention.forward(p, x, past, &reads, own);
                let mut y = x + attended.out;
                if let Some((layer, memory)) = &long {
                    y = y + layer.forward(p, x, memory);
                }
                (y + layer.feed_forward.forward(p, y), attended)
            };
            let (y, attended) = if self.config.recompute { g.recompute(step) } else { step() };
            next.long.extend(long.map(|(layer, memory)| if full { layer.push(p, &memory, x, None) } else { memory }));
            x = y;
            next.states.extend(attended.states.map(|vectors| States { vectors, written: None }));
            if layer.remembers {
                next.memories.extend(if full || self.config.short_block_memories {
                    Some(layer.remember(p, past, &attended.memory))
                } else {
                    past.copied()
                });
            }
        }
        (x, next)
    }

    /// Logits `[b, n, num_tokens]` of ids u32 `[b, n]`, n at most `max_seq_len`, that follow what is carried, and what is handed
    /// to the next call: cut from the graph, so that gradients cross blocks but not calls. The last block may be shorter.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, carried: &Carried<'g>) -> (Var<'g>, Carried<'g>) {
        let (logits, next) = self.forward_attached(p, ids, carried);
        (logits, next.detach())
    }

    /// [`forward`](Self::forward), of the same shapes, without the cut: gradients cross calls that are in one graph.
    #[track_caller]
    pub fn forward_attached<'g>(
        &self,
        p: &ParamVars<'g>,
        ids: Var<'g>,
        carried: &Carried<'g>,
    ) -> (Var<'g>, Carried<'g>) {
        self.check(ids, carried);
        let (n, w) = (ids.dim(1), self.config.block_width);
        let x = self.embed(p, ids);
        let mut carried = carried.clone();
        if self.config.enhanced_recurrence && carried.memories.len() > 1 {
            carried.memories.rotate_left(1);
        }
        let mut parts = Vec::new();
        for start in (0..n).step_by(w) {
            let (part, next) = self.block(p, x.slice(1, start, w.min(n - start)), &carried);
            parts.push(part);
            carried = next;
        }
        let x = match parts.split_first() {
            Some((first, [])) => *first,
            Some((first, rest)) => first.concat(rest, 1),
            None => x,
        };
        (self.logits(p, x), carried)
    }

    /// Mean cross entropy of the next token over ids u32 `[b, n + 1]`, n at most `max_seq_len`; labels of `u32::MAX` and of
    /// `ignore_index` do not count. Also what is handed to the next call, see [`forward`](Self::forward).
    #[track_caller]
    pub fn loss<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, carried: &Carried<'g>) -> (Var<'g>, Carried<'g>) {
        let (b, n) = (ids.dim(0), ids.dim(1).saturating_sub(1));
        let (logits, next) = self.forward(p, ids.slice(1, 0, n), carried);
        let labels = ids.slice(1, 1.min(ids.dim(1)), n).reshape([b * n]);
        let logits = logits.reshape([b * n, self.config.num_tokens]);
        (logits.cross_entropy_mean(labels, self.config.ignore_index), next)
    }
}

impl Layer {
    /// The layer's memory after a block.
    #[track_caller]
    pub fn remember<'g>(&self, p: &ParamVars<'g>, past: Option<&Memory<'g>>, block: &Memory<'g>) -> Memory<'g> {
        match &self.compression {
            Some(compression) => compression.update(p, past, block),
            None => *block,
        }
    }
}
