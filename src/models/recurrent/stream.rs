//! Streaming inference: memories, states and the keys and values of the current block stay on the device, and nothing grows
//! with the length of the text.

use super::attention::BlockCache;
use super::config::BlockRecurrentConfig;
use super::memory::Memory;
use super::state::{Readable, States};
use super::transformer::BlockRecurrentTransformer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::graph::{Graph, Var};
use crate::models::generation::{self, Draw, Draws, draw, drawn_type};
use crate::models::long_memory::Recalled;
use crate::nn::Params;
use crate::ops::select::Sampling;
use crate::types::{Tensor, TensorType};
use std::sync::Arc;

/// Plans of a model for one batch size: one that reads up to a block of tokens, one that reads a single token, one that draws
/// that token itself, and one that ends blocks. No other plan is ever compiled for a stream.
pub struct RecurrentStreamPlans {
    pub(super) batch: usize,
    pub(super) config: BlockRecurrentConfig,
    device: Device,
    states: Vec<(String, TensorType)>,
    /// Those of long memories, under their full names.
    long: Vec<(String, TensorType)>,
    prefill: Plan,
    decode: Plan,
    draw: Plan,
    turn: Plan,
}

/// One batch of texts being read. Its memories, states and caches live in a store of its own on the device.
pub struct RecurrentStream {
    plans: Arc<RecurrentStreamPlans>,
    store: Store,
    /// Tokens in the current block of each text.
    lengths: Vec<usize>,
    /// Tokens read of each text.
    read: Vec<u64>,
    /// Whether states and memories were made ready to be read.
    begun: bool,
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
const LOGITS: &str = "logits";
const DRAWN: &str = "drawn";

/// States of what was picked from a long memory.
const RECALLED: [&str; 3] = ["recalled.keys", "recalled.values", "recalled.mask"];
/// State of the inputs of the current block, for a long memory.
const INPUTS: &str = "inputs";

/// Name of the states of a layer's long memory.
fn long_name(layer: usize) -> String {
    named(&format!("layers.{layer}.long"))
}

pub(super) fn named(name: &str) -> String {
    format!("stream.{name}")
}

/// The states of a stream inside a graph.
struct Stored<'g, 'a> {
    graph: &'g Graph,
    all: &'a [(String, TensorType)],
}

impl<'g> Stored<'g, '_> {
    fn get(&self, name: &str) -> Var<'g> {
        match self.all.iter().find(|(n, _)| n == name) {
            Some((_, ty)) => self.graph.state(&named(name), ty.clone()),
            None => {
                let message = "the stream has no such state".to_owned();
                self.graph.fail(Error::Name { kind: "state", name: name.to_owned(), message });
                self.graph.full([], 0.0)
            }
        }
    }

    fn cache(&self, layer: usize) -> BlockCache<'g> {
        let [keys, turned, values] = ["keys", "turned", "values"].map(|n| self.get(&format!("layers.{layer}.{n}")));
        BlockCache { keys, turned, values, count: self.get(COUNT) }
    }

    fn keep(&self, old: &BlockCache<'g>, new: &BlockCache<'g>) {
        self.graph.assign(old.keys, new.keys);
        self.graph.assign(old.turned, new.turned);
        self.graph.assign(old.values, new.values);
    }

    /// What was picked for the current block of a layer with a long memory.
    fn recalled(&self, layer: usize) -> Recalled<'g> {
        let [keys, values, mask] = RECALLED.map(|n| self.get(&format!("layers.{layer}.{n}")));
        // Where it is from matters no more.
        Recalled { keys, values, mask, indices: mask }
    }

    fn readable(&self, bank: usize) -> Readable<'g> {
        let [keys, values] = ["keys", "values"].map(|n| self.get(&format!("banks.{bank}.{n}")));
        Readable { keys, values }
    }
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
            let l = long.config();
            // Blocks pick from the memory and from the block that went into it last.
            let k = l.selected.min(l.capacity.saturating_add(c.block_width));
            let keys = TensorType::f32([batch, l.heads, k, l.dim_head]);
            let mask = TensorType::u32([batch, l.routes, k]);
            let types = RECALLED.into_iter().zip([keys.clone(), keys, mask]);
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
        let (s, p) = (Stored { graph: &graph, all: states }, params.vars(&graph));
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
            s.keep(&cache, &new);
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
        let (s, p) = (Stored { graph: &graph, all: states }, params.vars(&graph));
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
            s.keep(&cache, &self.layers[*i].attention.next_cache(&p, &Memory { keys, values, count: None }, &cache));
        }
        for (i, long) in self.long_memories() {
            let inputs = s.get(&format!("layers.{i}.{INPUTS}"));
            let memory = long.memory(&graph, &long_name(i), batch);
            let memory = long.push(&p, &memory, inputs, Some(full * self.config().block_width as u32));
            let (old, new) = (s.recalled(i), long.recall(&p, &memory));
            memory.commit();
            for (old, new) in [(old.keys, new.keys), (old.values, new.values), (old.mask, new.mask)] {
                graph.assign(old, new);
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

impl RecurrentStream {
    /// An empty stream: nothing read, no memories, the learned first states.
    pub fn new(plans: &Arc<RecurrentStreamPlans>) -> Result<Self> {
        let store = Store::new(&plans.device);
        for (name, ty) in &plans.states {
            store.set_zeros(&named(name), ty)?;
        }
        store.reserve(&plans.long)?;
        let b = plans.batch;
        Ok(RecurrentStream { plans: plans.clone(), store, lengths: vec![0; b], read: vec![0; b], begun: false })
    }

    /// Bytes of the stream's state on the device: the same after any number of tokens.
    pub fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Tokens read of each text.
    pub fn tokens_read(&self) -> &[u64] {
        &self.read
    }

    /// The state, to save it or look at it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Reads more tokens of each text; texts may get different numbers of them, also none. `parameters` is the store of the
    /// model's parameters. Blocks that fill up go into memories and states. Refused input changes nothing.
    pub fn feed(&mut self, parameters: &Store, tokens: &[&[u32]]) -> Result<()> {
        let (b, w) = (self.plans.batch, self.plans.config.block_width);
        if tokens.len() != b {
            return Err(Error::argument("feed", format!("{} texts given, the stream has {b}", tokens.len())));
        }
        let vocabulary = self.plans.config.num_tokens;
        if let Some(bad) = tokens.iter().flat_map(|t| t.iter()).find(|t| **t as usize >= vocabulary) {
            return Err(Error::argument("feed", format!("token {bad} is outside the vocabulary of {vocabulary}")));
        }
        if !self.begun {
            self.run_turn(parameters, vec![0; b])?;
            self.begun = true;
        }
        let mut at = vec![0usize; b];
        loop {
            let counts: Vec<usize> = (0..b).map(|i| (tokens[i].len() - at[i]).min(w - self.lengths[i])).collect();
            let most = counts.iter().copied().max().unwrap_or(0);
            if most == 0 {
                return Ok(());
            }
            let (plan, width) = if most == 1 { (&self.plans.decode, 1) } else { (&self.plans.prefill, w) };
            let mut ids = vec![0; b * width];
            for i in 0..b {
                ids[i * width..i * width + counts[i]].copy_from_slice(&tokens[i][at[i]..at[i] + counts[i]]);
            }
            let ids = Tensor::u32([b, width], ids)?;
            let count = Tensor::u32([b], counts.iter().map(|c| *c as u32).collect())?;
            let feed = Feed::new().store(parameters).store(&self.store);
            plan.run(&feed.input("ids", &ids).input("count", &count))?;
            at.iter_mut().zip(&counts).for_each(|(at, c)| *at += c);
            self.advance(parameters, &counts)?;
        }
    }

    /// Counts tokens that were read, and ends the blocks that are full.
    fn advance(&mut self, parameters: &Store, counts: &[usize]) -> Result<()> {
        let w = self.plans.config.block_width;
        self.lengths.iter_mut().zip(counts).for_each(|(n, c)| *n += c);
        self.read.iter_mut().zip(counts).for_each(|(n, c)| *n += *c as u64);
        let full: Vec<u32> = self.lengths.iter().map(|l| u32::from(*l == w)).collect();
        if full.iter().all(|f| *f == 0) {
            return Ok(());
        }
        self.run_turn(parameters, full.clone())?;
        self.lengths.iter_mut().zip(&full).for_each(|(l, f)| *l *= 1 - *f as usize);
        Ok(())
    }

    fn run_turn(&self, parameters: &Store, full: Vec<u32>) -> Result<()> {
        let segment = self.plans.config.max_seq_len as u64;
        let ended = self.read.iter().zip(&full).map(|(n, f)| f * u32::from(n.is_multiple_of(segment))).collect();
        let [full, ended] = [Tensor::u32([full.len()], full)?, Tensor::u32([self.plans.batch], ended)?];
        let feed = Feed::new().store(parameters).store(&self.store);
        self.plans.turn.run(&feed.input("full", &full).input("ended", &ended))
    }

    /// Logits `[b, num_tokens]` of the token after the last one read of each text; zeros where none was read.
    pub async fn logits(&self) -> Result<Tensor> {
        self.store.read(&named(LOGITS)).await
    }

    /// Continues each text by `count` tokens, any number, and returns the new ones. Each text must have been fed at least one
    /// token. Draws as [`InfiniStream::generate`](crate::models::infini::InfiniStream::generate).
    pub async fn generate(
        &mut self,
        parameters: &Store,
        count: usize,
        sampling: Sampling,
        seed: u64,
    ) -> Result<Vec<Vec<u32>>> {
        generation::generate(self, parameters, count, sampling, seed).await
    }

    /// [`generate`](Self::generate), waiting on this thread.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn generate_blocking(
        &mut self,
        parameters: &Store,
        count: usize,
        sampling: Sampling,
        seed: u64,
    ) -> Result<Vec<Vec<u32>>> {
        pollster::block_on(self.generate(parameters, count, sampling, seed))
    }
}

impl Draws for RecurrentStream {
    fn tokens_read(&self) -> &[u64] {
        &self.read
    }

    fn check_room(&self, _count: usize) -> Result<()> {
        Ok(())
    }

    fn draw(&mut self, parameters: &Store, draw: &Draw<'_>) -> Result<()> {
        let step = self.read.first().copied().unwrap_or(0);
        self.plans.draw.run(&draw.feed(Feed::new().store(parameters).store(&self.store), step))?;
        self.advance(parameters, &vec![1; self.read.len()])
    }

    async fn drawn(&self) -> Result<Tensor> {
        self.store.read(&named(DRAWN)).await
    }
}
