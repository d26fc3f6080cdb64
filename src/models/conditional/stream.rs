//! Streaming inference with the decoder: what was read stays on the device, and no plan is compiled per token.

use super::autoregressive_cache::AutoregressiveCache;
use super::decoder::{RoutedDecoder, RoutedDecoderConfig};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::graph::Graph;
use crate::models::feeding::Feeding;
use crate::models::generation::{self, Draw, Draws, draw, drawn_type};
use crate::models::stream_states::{self, StreamStates, named};
use crate::nn::Params;
use crate::ops::select::Sampling;
use crate::types::{Tensor, TensorType};
use std::sync::Arc;

/// Plans of a decoder for one batch size and capacity: one that reads up to a window of tokens, one that draws a token and
/// reads it, and one that routes the keys of the windows so far when a window begins.
pub struct RoutedStreamPlans {
    batch: usize,
    capacity: usize,
    config: RoutedDecoderConfig,
    device: Device,
    states: Vec<(String, TensorType)>,
    read: Plan,
    draw: Plan,
    begin: Plan,
}

/// One batch of texts being read, each up to a fixed number of tokens.
pub struct RoutedStream {
    plans: Arc<RoutedStreamPlans>,
    store: Store,
    /// Tokens read of each text.
    read: Vec<u64>,
}

/// Names of the states besides the layers' caches: the tokens of the current window, how many of them have come, tokens in
/// the windows before, logits after the last token, tokens drawn.
const WINDOW: &str = "window";
const COUNT: &str = "count";
const FILLED: &str = "filled";
const LOGITS: &str = "logits";
const DRAWN: &str = "drawn";

/// The cache of a layer, of which `parts` names the states.
fn cache<'g>(s: &StreamStates<'g, '_>, layer: usize, parts: &[&str; 6]) -> AutoregressiveCache<'g> {
    AutoregressiveCache::from_parts(parts.map(|part| s.get(&format!("layers.{layer}.{part}"))))
}

/// Keeps what has changed for the next run.
fn keep<'g>(graph: &'g Graph, old: AutoregressiveCache<'g>, new: AutoregressiveCache<'g>) {
    for (old, new) in old.parts().into_iter().zip(new.parts()) {
        if old.value != new.value {
            graph.assign(old, new);
        }
    }
}

impl RoutedDecoder {
    /// Names and types of a stream's states.
    fn states(&self, batch: usize, capacity: usize) -> Vec<(String, TensorType)> {
        let w = self.config().attention.window();
        let mut all = vec![
            (WINDOW.to_owned(), TensorType::u32([batch, w, 1])),
            (COUNT.to_owned(), TensorType::u32([batch])),
            (FILLED.to_owned(), TensorType::u32([batch])),
            (LOGITS.to_owned(), TensorType::f32([batch, self.config().num_tokens])),
            (DRAWN.to_owned(), drawn_type(batch)),
        ];
        for (i, (attention, _)) in self.layers.iter().enumerate() {
            let types = attention.cache_types(batch, capacity);
            all.extend(types.into_iter().map(|(name, ty)| (format!("layers.{i}.{name}"), ty)));
        }
        all
    }

    /// Names of a cache's parts.
    fn parts(&self) -> [&'static str; 6] {
        // Every layer's are the same; a decoder has at least one.
        self.layers.first().map_or([""; 6], |(a, _)| a.cache_types(0, 0).map(|(name, _)| name))
    }

    /// The plan that reads tokens: those fed, or one that it draws.
    async fn read_plan(
        &self,
        device: &Device,
        params: &Params,
        batch: usize,
        states: &[(String, TensorType)],
        drawn: bool,
    ) -> Result<Plan> {
        let (graph, w) = (Graph::new(), self.config().attention.window());
        let (s, p) = (StreamStates::new(&graph, states), params.vars(&graph));
        let (old, logits) = (s.get(COUNT), s.get(LOGITS));
        let (ids, new) = if drawn {
            (draw(&graph, logits, s.get(DRAWN)), graph.full_u32([batch], 1))
        } else {
            (graph.input("ids", TensorType::u32([batch, w])), graph.input("new", TensorType::u32([batch])))
        };
        let (window, count, filled) = (s.get(WINDOW), old + new, s.get(FILLED));
        // What is written behind the new tokens does not count, and is overwritten when more come.
        let tokens = window.write_rows(ids.unsqueeze(2), old);
        let positions = filled.unsqueeze(1) + graph.iota([batch, w], 1);
        let mut x = self.embed(&p, tokens.reshape([batch, w]), positions);
        let parts = self.parts();
        for (i, (attention, feed_forward)) in self.layers.iter().enumerate() {
            let old = cache(&s, i, &parts);
            let (y, new) = attention.forward_cached(&p, x, count, filled, old);
            keep(&graph, old, new);
            x = x + y;
            x = x + feed_forward.forward(&p, x);
        }
        // Logits after the last token; a text that got none keeps its old ones.
        let last = graph.iota([batch], 0) * w as u32 + count.maximum(1) - 1;
        let x = x.reshape([batch * w, self.config().dim()]).gather(last);
        graph.assign(logits, new.gt(0).reshape([batch, 1]).select(self.logits(&p, x), logits));
        graph.assign(window, tokens);
        graph.assign(s.get(COUNT), count);
        device.compile(&graph, &[]).await
    }

    /// The plan that begins a new window in the texts whose window is full.
    async fn begin_plan(
        &self,
        device: &Device,
        params: &Params,
        batch: usize,
        states: &[(String, TensorType)],
    ) -> Result<Plan> {
        let (graph, w) = (Graph::new(), self.config().attention.window() as u32);
        let (s, p) = (StreamStates::new(&graph, states), params.vars(&graph));
        let (count, filled, parts) = (s.get(COUNT), s.get(FILLED), self.parts());
        let full = count.ge(w);
        let next = filled + full.select(graph.full_u32([batch], w), graph.full_u32([batch], 0));
        for (i, (attention, _)) in self.layers.iter().enumerate() {
            let old = cache(&s, i, &parts);
            let new = attention.next_window(&p, old, next);
            // Routing again changes nothing for a text whose window goes on: it sees the same tokens.
            keep(&graph, old, new);
        }
        graph.assign(filled, next);
        graph.assign(count, full.select(graph.full_u32([batch], 0), count));
        device.compile(&graph, &[]).await
    }

    /// Compiles the plans of a stream of `batch` texts of up to `capacity` tokens (rounded up to whole windows).
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch or a capacity of 0; else as [`Device::compile`](crate::Device::compile).
    pub async fn stream_plans(
        &self,
        device: &Device,
        params: &Params,
        batch: usize,
        capacity: usize,
    ) -> Result<Arc<RoutedStreamPlans>> {
        if batch == 0 || capacity == 0 {
            let message = format!("batch {batch} and capacity {capacity}; both must be at least 1");
            return Err(Error::argument("stream", message));
        }
        let capacity = capacity.next_multiple_of(self.config().attention.window());
        let states = self.states(batch, capacity);
        Ok(Arc::new(RoutedStreamPlans {
            batch,
            capacity,
            config: self.config().clone(),
            device: device.clone(),
            read: self.read_plan(device, params, batch, &states, false).await?,
            draw: self.read_plan(device, params, batch, &states, true).await?,
            begin: self.begin_plan(device, params, batch, &states).await?,
            states,
        }))
    }
}

impl RoutedStreamPlans {
    /// Bytes the plans hold on the device, without parameters and streams.
    pub fn bytes(&self) -> u64 {
        self.read.bytes() + self.draw.bytes() + self.begin.bytes()
    }

    /// Tokens that a text can have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl RoutedStream {
    /// An empty stream.
    ///
    /// # Errors
    /// As [`Store::set_zeros`](crate::Store::set_zeros).
    pub fn new(plans: &Arc<RoutedStreamPlans>) -> Result<Self> {
        let store = Store::new(&plans.device);
        stream_states::zeros(&store, &plans.states)?;
        Ok(RoutedStream { plans: plans.clone(), store, read: vec![0; plans.batch] })
    }

    /// Bytes of the stream's state on the device.
    pub fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Tokens read of each text.
    pub fn tokens_read(&self) -> &[u64] {
        &self.read
    }

    /// Reads more tokens of each text; texts may get different numbers of them, also none. `parameters` is the store of the
    /// model's parameters. Input that is refused changes nothing; so is more than the capacity.
    ///
    /// # Errors
    /// [`Error::Argument`], before anything is read, for another number of texts than the stream has, a token outside
    /// the vocabulary, or more tokens than fit; [`Error::Name`] if `parameters` lacks one; what a
    /// [device](crate::error#what-a-device-reports) reports.
    pub fn feed(&mut self, parameters: &Store, tokens: &[&[u32]]) -> Result<()> {
        let w = self.plans.config.attention.window();
        let mut feeding = Feeding::new(tokens, self.plans.batch, self.plans.config.num_tokens)?.whole();
        for (i, text) in tokens.iter().enumerate() {
            self.room(i, text.len())?;
        }
        loop {
            let places: Vec<usize> = self.read.iter().map(|n| (n % w as u64) as usize).collect();
            let Some(step) = feeding.next(&places, w)? else {
                return Ok(());
            };
            let (feed, new) = (Feed::new().store(parameters).store(&self.store), step.count()?);
            self.plans.read.run(&feed.input("ids", &step.ids).input("new", &new))?;
            self.advance(parameters, &step.counts)?;
        }
    }

    /// Counts tokens that were read, and begins the windows after those that are full.
    fn advance(&mut self, parameters: &Store, counts: &[usize]) -> Result<()> {
        let w = self.plans.config.attention.window() as u64;
        self.read.iter_mut().zip(counts).for_each(|(n, c)| *n += *c as u64);
        if self.read.iter().zip(counts).any(|(n, c)| *c > 0 && n.is_multiple_of(w)) {
            self.plans.begin.run(&Feed::new().store(parameters).store(&self.store))?;
        }
        Ok(())
    }

    /// Refuses more tokens of text `i` than fit.
    fn room(&self, i: usize, count: usize) -> Result<()> {
        let (read, capacity) = (self.read[i], self.plans.capacity as u64);
        if count as u64 > capacity - read {
            let message = format!(
                "text {i} has {read} of {capacity} tokens, {count} more do not fit; make plans of more capacity"
            );
            return Err(Error::argument("feed", message));
        }
        Ok(())
    }

    /// Logits `[b, num_tokens]` of the token after the last one read of each text; zeros where none was read.
    ///
    /// # Errors
    /// What a [device](crate::error#what-a-device-reports) reports.
    pub async fn logits(&self) -> Result<Tensor> {
        self.store.read(&named(LOGITS)).await
    }

    /// Continues each text by `count` tokens and returns the new ones. Each text must have been fed at least one token, and
    /// `count` more must fit. Draws as [`InfiniStream::generate`](crate::models::infini::InfiniStream::generate).
    ///
    /// # Errors
    /// [`Error::Argument`] for values that [`Sampling::check`](crate::ops::select::Sampling::check) refuses, for a text
    /// that is empty so far or has no room, and if logits are not finite; [`Error::Name`] if `parameters` lacks one;
    /// what a [device](crate::error#what-a-device-reports) reports.
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
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
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

impl Draws for RoutedStream {
    fn tokens_read(&self) -> &[u64] {
        &self.read
    }

    fn check_room(&self, count: usize) -> Result<()> {
        (0..self.read.len()).try_for_each(|i| self.room(i, count))
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
