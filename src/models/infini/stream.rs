//! Streaming inference: tokens go in, memories and key/value caches stay on the device, and nothing grows with the
//! length of the text.

use super::cache::Cache;
use super::memory::Memory;
use super::transformer::InfiniTransformer;
use super::{InfiniConfig, MemoryPath};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::graph::{Graph, Mode};
use crate::models::feeding::Feeding;
use crate::models::generation::{Draw, Draws, draw, drawn_type};
use crate::models::stream_states::{self, StreamStates, named};
use crate::nn::Params;
use crate::types::{Tensor, TensorType};
use std::sync::Arc;

/// Plans of a model for one batch size and segment length: one that takes up to a segment of tokens, one that takes a
/// single token, one that draws that token itself, and one that writes full segments into the memories. No other plan is
/// ever compiled for a stream.
pub struct StreamPlans {
    batch: usize,
    segment_length: usize,
    config: InfiniConfig,
    device: Device,
    prefill: Plan,
    decode: Plan,
    draw: Plan,
    compress: Plan,
}

/// Where the tokens of a plan come from.
#[derive(Clone, Copy)]
enum Tokens {
    /// Up to so many a text are fed.
    Fed(usize),
    /// One a text is drawn from the logits.
    Drawn,
}

/// One batch of texts being read. Its state (memories, caches) lives in a store of its own on the device.
pub struct InfiniStream {
    plans: Arc<StreamPlans>,
    store: Store,
    /// Tokens in the current segment of each text.
    lengths: Vec<usize>,
    /// Tokens read of each text.
    read: Vec<u64>,
}

/// Names and types of all states of a stream.
fn states(config: &InfiniConfig, batch: usize, length: usize) -> Vec<(String, TensorType)> {
    let (h, d) = (config.heads, config.dim_head);
    let mut all = vec![
        ("length".to_owned(), TensorType::u32([batch])),
        ("has_memory".to_owned(), TensorType::u32([batch])),
        ("logits".to_owned(), TensorType::f32([batch, config.num_tokens])),
        ("drawn".to_owned(), drawn_type(batch)),
    ];
    for i in 0..config.depth {
        let mut add = |name: &str, ty| all.push((format!("layers.{i}.{name}"), ty));
        add("memory.kv", TensorType::f32([batch, h, d, d]));
        add("memory.norm", TensorType::f32([batch, h, d]));
        add("turned_keys", TensorType::f32([batch, h, length, d]));
        add("values", TensorType::f32([batch, h, length, d]));
        if config.memory_path == MemoryPath::Plain {
            add("keys", TensorType::f32([batch, h, length, d]));
        }
        if config.learned_delta_update {
            add("beta", TensorType::f32([batch, h, length, 1]));
        }
    }
    all
}

fn memory<'g>(s: &StreamStates<'g, '_>, layer: usize) -> Memory<'g> {
    let [kv, norm] = ["kv", "norm"].map(|n| s.get(&format!("layers.{layer}.memory.{n}")));
    Memory { kv, norm }
}

fn cache<'g>(s: &StreamStates<'g, '_>, layer: usize) -> Cache<'g> {
    let name = |n: &str| format!("layers.{layer}.{n}");
    Cache {
        keys: s.find(&name("keys")),
        turned: s.get(&name("turned_keys")),
        values: s.get(&name("values")),
        beta: s.find(&name("beta")),
    }
}

/// Keeps `new` in place of `old` for the next run.
fn keep<'g>(graph: &'g Graph, old: Cache<'g>, new: Cache<'g>) {
    graph.assign(old.turned, new.turned);
    graph.assign(old.values, new.values);
    for (old, new) in [(old.keys, new.keys), (old.beta, new.beta)] {
        if let (Some(old), Some(new)) = (old, new) {
            graph.assign(old, new);
        }
    }
}

impl InfiniTransformer {
    /// The plan that reads tokens of each text.
    async fn advance_plan(
        &self,
        device: &Device,
        params: &Params,
        batch: usize,
        length: usize,
        tokens: Tokens,
    ) -> Result<Plan> {
        let graph = Graph::new();
        let states = states(self.config(), batch, length);
        let s = StreamStates::new(&graph, &states);
        let p = params.vars(&graph);
        let old = s.get("logits");
        let (width, ids, count) = match tokens {
            Tokens::Fed(width) => {
                let ids = graph.input("ids", TensorType::u32([batch, width]));
                (width, ids, graph.input("count", TensorType::u32([batch])))
            }
            Tokens::Drawn => (1, draw(&graph, old, s.get("drawn")), graph.full_u32([batch], 1)),
        };
        let (filled, has_memory) = (s.get("length"), s.get("has_memory"));
        let mut x = self.embed(&p, ids);
        for (i, layer) in self.layers.iter().enumerate() {
            let old = cache(&s, i);
            let (y, new) = layer.forward_cached(&p, x, old, filled, Some((memory(&s, i), has_memory)));
            keep(&graph, old, new);
            x = self.feed_forward(&p, i, x + y, Mode::Eval, 0);
        }
        // Logits after the last token that counts; a text that got none keeps its old ones.
        let last = graph.iota([batch], 0) * width as u32 + count.maximum(1) - 1;
        let x = x.reshape([batch * width, self.config().dim]).gather(last);
        let got = count.gt(0).reshape([batch, 1]);
        graph.assign(old, got.select(self.logits(&p, x), old));
        graph.assign(filled, filled + count);
        device.compile(&graph, &[]).await
    }

    /// The plan that writes the segments of the texts marked `full` into the memories.
    async fn compress_plan(&self, device: &Device, params: &Params, batch: usize, length: usize) -> Result<Plan> {
        let graph = Graph::new();
        let states = states(self.config(), batch, length);
        let s = StreamStates::new(&graph, &states);
        let p = params.vars(&graph);
        let full = graph.input("full", TensorType::u32([batch]));
        let (filled, has_memory) = (s.get("length"), s.get("has_memory"));
        let mut written = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            // An empty memory returns 0, which is what the delta rule subtracts without a past.
            written.push(layer.write_cached(&p, cache(&s, i), Some(memory(&s, i))));
        }
        for (i, new) in self.pass_down(&p, written).into_iter().enumerate() {
            let old = memory(&s, i);
            graph.assign(old.kv, full.reshape([batch, 1, 1, 1]).select(new.kv, old.kv));
            graph.assign(old.norm, full.reshape([batch, 1, 1]).select(new.norm, old.norm));
        }
        graph.assign(filled, full.select(graph.full_u32([], 0), filled));
        graph.assign(has_memory, has_memory.or(full));
        device.compile(&graph, &[]).await
    }

    /// Compiles the plans of a stream of `batch` texts with segments of `segment_length` tokens.
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch or segments of 0; else as [`Device::compile`](crate::Device::compile).
    pub async fn stream_plans(
        &self,
        device: &Device,
        params: &Params,
        batch: usize,
        segment_length: usize,
    ) -> Result<Arc<StreamPlans>> {
        if batch == 0 || segment_length == 0 {
            return Err(Error::argument(
                "stream",
                format!("batch {batch} and segment length {segment_length}; both must be at least 1"),
            ));
        }
        let advance = |tokens| self.advance_plan(device, params, batch, segment_length, tokens);
        Ok(Arc::new(StreamPlans {
            batch,
            segment_length,
            config: self.config().clone(),
            device: device.clone(),
            prefill: advance(Tokens::Fed(segment_length)).await?,
            decode: advance(Tokens::Fed(1)).await?,
            draw: advance(Tokens::Drawn).await?,
            compress: self.compress_plan(device, params, batch, segment_length).await?,
        }))
    }
}

impl StreamPlans {
    /// Bytes the plans hold on the device, without parameters and streams.
    pub fn bytes(&self) -> u64 {
        [&self.prefill, &self.decode, &self.draw, &self.compress].iter().map(|plan| plan.bytes()).sum()
    }

    /// Number of texts.
    pub fn batch(&self) -> usize {
        self.batch
    }
}

impl InfiniStream {
    /// An empty stream: nothing read, empty memories.
    ///
    /// # Errors
    /// As [`Store::set_zeros`](crate::Store::set_zeros).
    pub fn new(plans: &Arc<StreamPlans>) -> Result<Self> {
        let store = Store::new(&plans.device);
        stream_states::zeros(&store, &states(&plans.config, plans.batch, plans.segment_length))?;
        Ok(InfiniStream { plans: plans.clone(), store, lengths: vec![0; plans.batch], read: vec![0; plans.batch] })
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
    /// model's parameters. Segments that fill up go into the memories. Refused input changes nothing.
    ///
    /// # Errors
    /// [`Error::Argument`], before anything is read, for another number of texts than the stream has, or a token
    /// outside the vocabulary; [`Error::Name`] if `parameters` lacks one; what a
    /// [device](crate::error#what-a-device-reports) reports.
    pub fn feed(&mut self, parameters: &Store, tokens: &[&[u32]]) -> Result<()> {
        let mut feeding = Feeding::new(tokens, self.plans.batch, self.plans.config.num_tokens)?;
        while let Some(step) = feeding.next(&self.lengths, self.plans.segment_length)? {
            let plan = if step.is_single() { &self.plans.decode } else { &self.plans.prefill };
            let (feed, count) = (Feed::new().store(parameters).store(&self.store), step.count()?);
            plan.run(&feed.input("ids", &step.ids).input("count", &count))?;
            self.advance(parameters, &step.counts)?;
        }
        Ok(())
    }

    /// Counts tokens that were read, and writes segments that are full into the memories.
    fn advance(&mut self, parameters: &Store, counts: &[usize]) -> Result<()> {
        self.lengths.iter_mut().zip(counts).for_each(|(n, c)| *n += c);
        self.read.iter_mut().zip(counts).for_each(|(n, c)| *n += *c as u64);
        self.compress(parameters)
    }

    /// Writes the texts whose segment is full into their memories.
    fn compress(&mut self, parameters: &Store) -> Result<()> {
        let s = self.plans.segment_length;
        let full: Vec<u32> = self.lengths.iter().map(|l| u32::from(*l == s)).collect();
        if full.iter().all(|f| *f == 0) {
            return Ok(());
        }
        let marks = Tensor::u32([full.len()], full.clone())?;
        self.plans.compress.run(&Feed::new().store(parameters).store(&self.store).input("full", &marks))?;
        self.lengths.iter_mut().zip(&full).for_each(|(l, f)| *l *= 1 - *f as usize);
        Ok(())
    }

    /// Logits `[b, num_tokens]` of the token after the last one read of each text; zeros where none was read.
    ///
    /// # Errors
    /// What a [device](crate::error#what-a-device-reports) reports.
    pub async fn logits(&self) -> Result<Tensor> {
        self.store.read(&named("logits")).await
    }
}

impl Draws for InfiniStream {
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
        self.store.read(&named("drawn")).await
    }
}
