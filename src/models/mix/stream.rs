//! Streaming inference: what is carried stays on the device, nothing grows with the text, and no plan is compiled per token.

use super::transformer::MemoryTransformer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::graph::{Graph, Var};
use crate::models::generation::{self, Draw, Draws, draw, drawn_type};
use crate::nn::Params;
use crate::ops::select::Sampling;
use crate::types::{Tensor, TensorType};
use std::sync::Arc;

/// Plans of a model for one number of texts: one that reads up to a segment of tokens, and one that draws a token and reads it.
pub struct MemoryStreamPlans {
    device: Device,
    batch: usize,
    segment: usize,
    num_tokens: usize,
    states: Vec<(String, TensorType)>,
    read: Plan,
    draw: Plan,
}

/// One batch of texts being read. What the layers carry, and the tokens of the current segment, live in a store of its own on
/// the device. A new token takes a pass over its segment: which of its tokens are routed depends on those before it.
pub struct MemoryStream {
    plans: Arc<MemoryStreamPlans>,
    store: Store,
    /// Tokens read of each text.
    read: Vec<u64>,
}

/// States beside those of the model: tokens of the current segment, how many there are, logits after the last one, tokens
/// drawn.
const SEGMENT: &str = "stream.segment";
const COUNT: &str = "stream.count";
const LOGITS: &str = "stream.logits";
const DRAWN: &str = "stream.drawn";

impl MemoryTransformer {
    async fn read_plan(&self, device: &Device, params: &Params, batch: usize, drawn: bool) -> Result<Plan> {
        let (graph, w) = (Graph::new(), self.config().segment);
        let p = params.vars(&graph);
        let segment = graph.state(SEGMENT, TensorType::u32([batch, w, 1]));
        let count = graph.state(COUNT, TensorType::u32([batch]));
        let logits = graph.state(LOGITS, TensorType::f32([batch, self.config().num_tokens]));
        let (ids, new) = if drawn {
            let token = draw(&graph, logits, graph.state(DRAWN, drawn_type(batch)));
            (token, graph.full_u32([batch], 1))
        } else {
            (graph.input("ids", TensorType::u32([batch, w])), graph.input("new", TensorType::u32([batch])))
        };
        let total = count + new;
        // What stands behind the last token is not seen by any before it, and is overwritten when more come.
        let tokens = segment.write_rows(ids.unsqueeze(2), count);
        let full = total.ge(w as u32);
        let old = self.carried(&graph, batch, None);
        let (x, next) = self.segment(&p, tokens.reshape([batch, w]), &old, Some(full * w as u32));
        self.keep(&graph, &old, &next, Some(full));
        // Logits after the last token; a text that got none keeps its old ones.
        let last = graph.iota([batch], 0) * w as u32 + total.maximum(1) - 1;
        let x = x.reshape([batch * w, self.config().dim]).gather(last);
        let got: Var<'_> = new.gt(0).reshape([batch, 1]);
        graph.assign(logits, got.select(self.logits(&p, x), logits));
        graph.assign(segment, tokens);
        graph.assign(count, full.select(graph.full_u32([batch], 0), total));
        device.compile(&graph, &[]).await
    }

    /// Compiles the plans of a stream of `batch` texts.
    pub async fn stream_plans(&self, device: &Device, params: &Params, batch: usize) -> Result<Arc<MemoryStreamPlans>> {
        if batch == 0 {
            return Err(Error::argument("stream", "no texts; the batch must be at least 1"));
        }
        let (segment, num_tokens) = (self.config().segment, self.config().num_tokens);
        let mut states = self.states(batch)?;
        for (name, ty) in [
            (SEGMENT, TensorType::u32([batch, segment, 1])),
            (COUNT, TensorType::u32([batch])),
            (LOGITS, TensorType::f32([batch, num_tokens])),
            (DRAWN, drawn_type(batch)),
        ] {
            states.push((name.to_owned(), ty));
        }
        Ok(Arc::new(MemoryStreamPlans {
            device: device.clone(),
            batch,
            segment,
            num_tokens,
            states,
            read: self.read_plan(device, params, batch, false).await?,
            draw: self.read_plan(device, params, batch, true).await?,
        }))
    }
}

impl MemoryStreamPlans {
    /// Bytes the plans hold on the device, without parameters and streams.
    pub fn bytes(&self) -> u64 {
        self.read.bytes() + self.draw.bytes()
    }
}

impl MemoryStream {
    /// An empty stream.
    pub fn new(plans: &Arc<MemoryStreamPlans>) -> Result<Self> {
        let store = Store::new(&plans.device);
        store.reserve(&plans.states)?;
        Ok(MemoryStream { plans: plans.clone(), store, read: vec![0; plans.batch] })
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
    /// model's parameters. Input that is refused changes nothing.
    pub fn feed(&mut self, parameters: &Store, tokens: &[&[u32]]) -> Result<()> {
        let (b, w) = (self.plans.batch, self.plans.segment);
        if tokens.len() != b {
            return Err(Error::argument("feed", format!("{} texts given, the stream has {b}", tokens.len())));
        }
        if let Some(bad) = tokens.iter().flat_map(|t| t.iter()).find(|t| **t as usize >= self.plans.num_tokens) {
            let message = format!("token {bad} is outside the vocabulary of {}", self.plans.num_tokens);
            return Err(Error::argument("feed", message));
        }
        let mut at = vec![0usize; b];
        loop {
            let place = |i: usize| (self.read[i] % w as u64) as usize;
            let counts: Vec<usize> = (0..b).map(|i| (tokens[i].len() - at[i]).min(w - place(i))).collect();
            if counts.iter().all(|c| *c == 0) {
                return Ok(());
            }
            let mut ids = vec![0; b * w];
            for i in 0..b {
                ids[i * w..i * w + counts[i]].copy_from_slice(&tokens[i][at[i]..at[i] + counts[i]]);
            }
            let ids = Tensor::u32([b, w], ids)?;
            let new = Tensor::u32([b], counts.iter().map(|c| *c as u32).collect())?;
            let feed = Feed::new().store(parameters).store(&self.store);
            self.plans.read.run(&feed.input("ids", &ids).input("new", &new))?;
            at.iter_mut().zip(&counts).for_each(|(at, c)| *at += c);
            self.read.iter_mut().zip(&counts).for_each(|(n, c)| *n += *c as u64);
        }
    }

    /// Logits `[b, num_tokens]` of the token after the last one read of each text; zeros where none was read.
    pub async fn logits(&self) -> Result<Tensor> {
        self.store.read(LOGITS).await
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

impl Draws for MemoryStream {
    fn tokens_read(&self) -> &[u64] {
        &self.read
    }

    fn check_room(&self, _count: usize) -> Result<()> {
        Ok(())
    }

    fn draw(&mut self, parameters: &Store, draw: &Draw<'_>) -> Result<()> {
        let step = self.read.first().copied().unwrap_or(0);
        self.plans.draw.run(&draw.feed(Feed::new().store(parameters).store(&self.store), step))?;
        self.read.iter_mut().for_each(|n| *n += 1);
        Ok(())
    }

    async fn drawn(&self) -> Result<Tensor> {
        self.store.read(DRAWN).await
    }
}
