//! The plans of streaming inference: a token takes a pass over itself only, a full block one over the layers' caches.

use super::attention::BlockCache;
use super::config::BlockRecurrentConfig;
use super::memory::Memory;
use super::state::{Readable, States};
use super::transformer::BlockRecurrentTransformer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::Plan;
use crate::graph::Graph;
use crate::models::generation::{draw, drawn_type};
use crate::models::long_memory::Recalled;
use crate::models::parts::chosen;
use crate::models::stream_states::{StreamStates, named};
use crate::nn::Params;
use crate::types::TensorType;
use std::sync::Arc;

/// Plans of a model for one batch size: one that reads up to a block of tokens, one that reads a single token, one that draws
/// that token itself, and one that ends blocks. No other plan is ever compiled for a stream.
pub struct RecurrentStreamPlans {
    pub(super) batch: usize,
    pub(super) config: BlockRecurrentConfig,
    pub(super) device: Device,
    pub(super) states: Vec<(String, TensorType)>,
    /// Those of long memories, under their full names.
    pub(super) long: Vec<(String, TensorType)>,
    pub(super) prefill: Plan,
    pub(super) decode: Plan,
    pub(super) draw: Plan,
    pub(super) turn: Plan,
}

/// Where the tokens of a plan come from.
#[derive(Clone, Copy)]
enum Tokens {
    /// Up to so many a text are fed.
    Fed(usize),
    /// One a text is drawn from the logits.
    Drawn,
}

/// Names of the states beside those of layers and banks: tokens in the current block, rows of the memories, whether states were
/// written, logits after the last token, tokens drawn.
const LENGTH: &str = "length";
pub(super) const COUNT: &str = "count";
pub(super) const WRITTEN: &str = "written";
pub(super) const LOGITS: &str = "logits";
pub(super) const DRAWN: &str = "drawn";

/// States of what was picked from a long memory.
const RECALLED: [&str; 3] = ["recalled.keys", "recalled.values", "recalled.mask"];
/// State of the inputs of the current block, for a long memory.
const INPUTS: &str = "inputs";

/// Name of the states of a layer's long memory.
fn long_name(layer: usize) -> String {
    named(&format!("layers.{layer}.long"))
}

/// The states of a stream, as a layer wants them.
trait Parts<'g> {
    fn cache(&self, layer: usize) -> BlockCache<'g>;
    /// What was picked for the current block of a layer with a long memory.
    fn recalled(&self, layer: usize) -> Recalled<'g>;
    fn readable(&self, bank: usize) -> Readable<'g>;
}

impl<'g> Parts<'g> for StreamStates<'g, '_> {
    fn cache(&self, layer: usize) -> BlockCache<'g> {
        let [keys, turned, values] = ["keys", "turned", "values"].map(|n| self.get(&format!("layers.{layer}.{n}")));
        BlockCache { keys, turned, values, count: self.get(COUNT) }
    }

    fn recalled(&self, layer: usize) -> Recalled<'g> {
        Recalled::from_parts(RECALLED.map(|n| self.get(&format!("layers.{layer}.{n}"))))
    }

    fn readable(&self, bank: usize) -> Readable<'g> {
        let [keys, values] = ["keys", "values"].map(|n| self.get(&format!("banks.{bank}.{n}")));
        Readable { keys, values }
    }
}

/// Keeps `new` in place of `old` for the next run.
fn keep<'g>(graph: &'g Graph, old: &BlockCache<'g>, new: &BlockCache<'g>) {
    graph.assign(old.keys, new.keys);
    graph.assign(old.turned, new.turned);
    graph.assign(old.values, new.values);
}

impl BlockRecurrentTransformer {
    /// Names and types of a stream's states.
    fn stream_states(&self, batch: usize) -> Result<Vec<(String, TensorType)>> {
        let c = self.config();
        let mut all = vec![
            (LENGTH.to_owned(), TensorType::u32([batch])),
            (COUNT.to_owned(), TensorType::u32([batch])),
            (WRITTEN.to_owned(), TensorType::u32([batch])),
            (LOGITS.to_owned(), TensorType::f32([batch, c.num_tokens])),
            (DRAWN.to_owned(), drawn_type(batch)),
        ];
        for (i, layer) in self.layers.iter().enumerate() {
            let rows = c.block_width + if layer.remembers { c.memory_rows() } else { 0 };
            let ty = TensorType::f32([batch, rows, c.dim_head]);
            all.extend(["keys", "turned", "values"].map(|n| (format!("layers.{i}.{n}"), ty.clone())));
        }
        for (i, bank) in self.state_containers().enumerate() {
            let ty = TensorType::f32([batch, c.states(), c.dim_head]);
            all.extend(["keys", "values"].map(|n| (format!("banks.{i}.{n}"), ty.clone())));
            all.push((format!("banks.{i}.vectors"), bank.ty(batch)));
        }
        for (i, long) in self.long_memories() {
            // Blocks pick from the memory and from the block that went into it last.
            let types = RECALLED.into_iter().zip(long.recalled_types(batch, c.block_width));
            all.extend(types.map(|(n, ty)| (format!("layers.{i}.{n}"), ty)));
            all.push((format!("layers.{i}.{INPUTS}"), TensorType::f32([batch, c.block_width, c.dim])));
        }
        Ok(all)
    }

    /// States of the long memories themselves, under their full names.
    fn long_states(&self, batch: usize) -> Result<Vec<(String, TensorType)>> {
        let mut all = Vec::new();
        for (i, long) in self.long_memories() {
            all.extend(long.states(&long_name(i), batch)?);
        }
        Ok(all)
    }

    /// The plan that reads tokens of each text.
    async fn advance_plan(
        &self,
        device: &Device,
        params: &Params,
        states: &[(String, TensorType)],
        batch: usize,
        tokens: Tokens,
    ) -> Result<Plan> {
        let graph = Graph::new();
        let (s, p) = (StreamStates::new(&graph, states), params.vars(&graph));
        let old = s.get(LOGITS);
        let (width, ids, count) = match tokens {
            Tokens::Fed(width) => {
                let ids = graph.input("ids", TensorType::u32([batch, width]));
                (width, ids, graph.input("count", TensorType::u32([batch])))
            }
            Tokens::Drawn => (1, draw(&graph, old, s.get(DRAWN)), graph.full_u32([batch], 1)),
        };
        let length = s.get(LENGTH);
        let banks: Vec<Readable<'_>> = self.state_containers().enumerate().map(|(i, _)| s.readable(i)).collect();
        let mut x = self.embed(&p, ids);
        for (i, layer) in self.layers.iter().enumerate() {
            let cache = s.cache(i);
            let (y, new) = layer.attention.forward_cached(&p, x, length, &cache, &self.reads(i, &banks));
            keep(&graph, &cache, &new);
            let mut y = x + y;
            if let Some(long) = &layer.long {
                let inputs = s.get(&format!("layers.{i}.{INPUTS}"));
                graph.assign(inputs, inputs.write_rows(x, length));
                let positions = length.reshape([batch, 1]) + graph.iota([batch, width], 1);
                y = y + long.attend(&p, x, Some(positions), &s.recalled(i));
            }
            x = y + layer.feed_forward.forward(&p, y);
        }
        // Logits after the last token that counts; a text that got none keeps its old ones.
        let last = graph.iota([batch], 0) * width as u32 + count.maximum(1) - 1;
        let x = x.reshape([batch * width, self.config().dim]).gather(last);
        let got = count.gt(0).reshape([batch, 1]);
        graph.assign(old, got.select(self.logits(&p, x), old));
        graph.assign(length, length + count);
        device.compile(&graph, &[]).await
    }

    /// The plan that ends the blocks of the texts marked `full`, and hands memories down the layers in those marked `ended`.
    async fn turn_plan(
        &self,
        device: &Device,
        params: &Params,
        states: &[(String, TensorType)],
        batch: usize,
    ) -> Result<Plan> {
        let graph = Graph::new();
        let (s, p) = (StreamStates::new(&graph, states), params.vars(&graph));
        let full = graph.input("full", TensorType::u32([batch]));
        let ended = graph.input("ended", TensorType::u32([batch]));
        let (length, count, written) = (s.get(LENGTH), s.get(COUNT), s.get(WRITTEN));
        let (is_full, is_ended) = (full.reshape([batch, 1, 1]), ended.reshape([batch, 1, 1]));
        let (mut bank, mut past, mut next) = (0, Vec::new(), Vec::new());
        for (i, layer) in self.layers.iter().enumerate() {
            let (memory, block) = self.parts(&s.cache(i));
            if let Some(states) = layer.attention.states() {
                let vectors = s.get(&format!("banks.{bank}.vectors"));
                let view = states.view(&p, Some(&States { vectors, written: Some(written) }));
                let new = is_full.select(states.write(&p, &block, &view), vectors);
                graph.assign(vectors, new);
                let new = States { vectors: new, written: Some(written.or(full)) };
                let (old, new) = (s.readable(bank), states.readable(&p, &states.view(&p, Some(&new))));
                graph.assign(old.keys, new.keys);
                graph.assign(old.values, new.values);
                bank += 1;
            }
            if layer.remembers {
                next.push(layer.remember(&p, Some(&memory), &block));
                past.push((i, memory));
            }
        }
        let rows = next.first().map_or(count, Memory::count);
        let above = (0..next.len()).map(|i| next[(i + 1) % next.len()]);
        for (((i, old), own), above) in past.iter().zip(&next).zip(above) {
            let mut new = [own.keys, own.values];
            if self.config().enhanced_recurrence {
                new = [is_ended.select(above.keys, own.keys), is_ended.select(above.values, own.values)];
            }
            let [keys, values] = [is_full.select(new[0], old.keys), is_full.select(new[1], old.values)];
            let cache = s.cache(*i);
            keep(
                &graph,
                &cache,
                &self.layers[*i].attention.next_cache(&p, &Memory { keys, values, count: None }, &cache),
            );
        }
        for (i, long) in self.long_memories() {
            let inputs = s.get(&format!("layers.{i}.{INPUTS}"));
            let memory = long.memory(&graph, &long_name(i), batch);
            let memory = long.push(&p, &memory, inputs, Some(full * self.config().block_width as u32));
            let (old, new) = (s.recalled(i).parts(), long.recall(&p, &memory).parts());
            memory.commit();
            // Only of the texts that go on: what was picked for a block stays for all of it.
            for (old, new) in old.into_iter().zip(new) {
                graph.assign(old, chosen(full, new, old));
            }
        }
        graph.assign(count, full.select(rows, count));
        graph.assign(written, written.or(full));
        graph.assign(length, full.select(graph.full_u32([], 0), length));
        device.compile(&graph, &[]).await
    }

    /// Memory and current block of a cache.
    fn parts<'g>(&self, cache: &BlockCache<'g>) -> (Memory<'g>, Memory<'g>) {
        let w = self.config().block_width;
        let m = cache.keys.dim(1).saturating_sub(w);
        let part = |start: usize, n: usize, count| Memory {
            keys: cache.keys.slice(1, start, n),
            values: cache.values.slice(1, start, n),
            count,
        };
        (part(0, m, Some(cache.count)), part(m, w, None))
    }

    /// Compiles the plans of a stream of `batch` texts.
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch of 0; else as [`Device::compile`](crate::Device::compile).
    pub async fn stream_plans(
        &self,
        device: &Device,
        params: &Params,
        batch: usize,
    ) -> Result<Arc<RecurrentStreamPlans>> {
        if batch == 0 {
            return Err(Error::argument("stream", "batch 0; expected at least 1"));
        }
        let states = self.stream_states(batch)?;
        let long = self.long_states(batch)?;
        let advance = |tokens| self.advance_plan(device, params, &states, batch, tokens);
        Ok(Arc::new(RecurrentStreamPlans {
            batch,
            config: self.config().clone(),
            device: device.clone(),
            prefill: advance(Tokens::Fed(self.config().block_width)).await?,
            decode: advance(Tokens::Fed(1)).await?,
            draw: advance(Tokens::Drawn).await?,
            turn: self.turn_plan(device, params, &states, batch).await?,
            states,
            long,
        }))
    }
}

impl RecurrentStreamPlans {
    /// Bytes the plans hold on the device, without parameters and streams.
    pub fn bytes(&self) -> u64 {
        [&self.prefill, &self.decode, &self.draw, &self.turn].iter().map(|plan| plan.bytes()).sum()
    }

    /// Number of texts.
    pub fn batch(&self) -> usize {
        self.batch
    }
}
