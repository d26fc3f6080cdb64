//! Generating with the small transformer: a window of the last tokens stays on the device, and no plan is compiled per token.

use super::lookup::Lookup;
use super::transformer::PkmTransformer;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::graph::{Graph, Mode};
use crate::models::feeding;
use crate::models::generation::{self, Draw, Draws, draw, drawn_type};
use crate::nn::Params;
use crate::ops::select::Sampling;
use crate::types::{Tensor, TensorType};
use std::sync::Arc;

/// Names of a stream's states: the last `seq_len` tokens of each text, how many of them there are, logits after the last
/// one, tokens drawn.
const WINDOW: &str = "stream.window";
const COUNT: &str = "stream.count";
const LOGITS: &str = "stream.logits";
const DRAWN: &str = "stream.drawn";

/// Plans of a model for one number of texts: one that reads windows of tokens, one that draws a token and reads it.
pub struct PkmStreamPlans {
    device: Device,
    seq_len: usize,
    num_tokens: usize,
    states: [(&'static str, TensorType); 4],
    read: Plan,
    draw: Plan,
}

/// Texts being read and continued. The model sees the last `seq_len` tokens of each; positions count from the first of them,
/// as in the package, so that each new token takes a pass over the whole window once it is full.
pub struct PkmStream {
    plans: Arc<PkmStreamPlans>,
    store: Store,
    /// Last tokens of each text that were fed; those drawn since are on the device only.
    fed: Vec<Vec<u32>>,
    /// Tokens read of each text.
    read: Vec<u64>,
    /// Whether tokens were drawn that `fed` lacks.
    drawn: bool,
}

impl PkmTransformer {
    async fn stream_plan(
        &self,
        device: &Device,
        params: &Params,
        batch: usize,
        states: &[(&'static str, TensorType); 4],
        drawn: bool,
    ) -> Result<Plan> {
        let (graph, n) = (Graph::new(), self.config().seq_len);
        let [window, count, logits, kept] = [0, 1, 2, 3].map(|i| graph.state(states[i].0, states[i].1.clone()));
        let p = params.vars(&graph);
        let (ids, filled) = if drawn {
            let token = draw(&graph, logits, kept);
            // A full window moves on by one token.
            let full = count.ge(n as u32);
            let moved = window.slice(1, 1, n - 1).pad(1, 0, 1);
            let before = full.reshape([batch, 1]).select(moved, window);
            let at = count.minimum(n as u32 - 1);
            (before.unsqueeze(2).write_rows(token.unsqueeze(2), at).reshape([batch, n]), at + 1)
        } else {
            (graph.input("ids", TensorType::u32([batch, n])), graph.input("count", TensorType::u32([batch])))
        };
        let (x, _) = self.features(&p, ids, &Lookup::new(Mode::Eval, 0));
        // What stands behind the last token is not seen by it.
        let last = graph.iota([batch], 0) * n as u32 + filled.maximum(1) - 1;
        let x = x.reshape([batch * n, self.config().dim()]).gather(last);
        let some = filled.gt(0).reshape([batch, 1]);
        graph.assign(logits, some.select(self.logits(&p, x), 0.0));
        graph.assign(window, ids);
        graph.assign(count, filled);
        device.compile(&graph, &[]).await
    }

    /// Compiles the plans of a stream of `batch` texts.
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch of 0; else as [`Device::compile`](crate::Device::compile).
    pub async fn stream_plans(&self, device: &Device, params: &Params, batch: usize) -> Result<Arc<PkmStreamPlans>> {
        if batch == 0 {
            return Err(Error::argument("stream", "no texts; the batch must be at least 1"));
        }
        let (n, num_tokens) = (self.config().seq_len, self.config().num_tokens);
        let states = [
            (WINDOW, TensorType::u32([batch, n])),
            (COUNT, TensorType::u32([batch])),
            (LOGITS, TensorType::f32([batch, num_tokens])),
            (DRAWN, drawn_type(batch)),
        ];
        Ok(Arc::new(PkmStreamPlans {
            device: device.clone(),
            seq_len: n,
            num_tokens,
            read: self.stream_plan(device, params, batch, &states, false).await?,
            draw: self.stream_plan(device, params, batch, &states, true).await?,
            states,
        }))
    }
}

impl PkmStreamPlans {
    /// Bytes the plans hold on the device, without parameters and streams.
    pub fn bytes(&self) -> u64 {
        self.read.bytes() + self.draw.bytes()
    }
}

impl PkmStream {
    /// Empty texts.
    ///
    /// # Errors
    /// As [`Store::set_zeros`](crate::Store::set_zeros).
    pub fn new(plans: &Arc<PkmStreamPlans>) -> Result<Self> {
        let store = Store::new(&plans.device);
        plans.states.iter().try_for_each(|(name, ty)| store.set_zeros(name, ty))?;
        let batch = plans.states[1].1.numel();
        Ok(PkmStream { plans: plans.clone(), store, fed: vec![Vec::new(); batch], read: vec![0; batch], drawn: false })
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
    /// model's parameters. Input that is refused changes nothing.
    ///
    /// # Errors
    /// [`Error::Argument`], before anything is read, for another number of texts than the stream has, or a token
    /// outside the vocabulary; [`Error::Name`] if `parameters` lacks one; what a
    /// [device](crate::error#what-a-device-reports) reports.
    pub async fn feed(&mut self, parameters: &Store, tokens: &[&[u32]]) -> Result<()> {
        let (b, n) = (self.fed.len(), self.plans.seq_len);
        feeding::check(tokens, b, self.plans.num_tokens)?;
        let mut texts = self.fed.clone();
        if self.drawn {
            let (window, count) = (self.store.read(WINDOW).await?, self.store.read(COUNT).await?);
            let rows = window.ints().chunks(n).zip(count.ints());
            texts = rows.map(|(row, count)| row[..n.min(*count as usize)].to_vec()).collect();
        }
        let mut ids = vec![0; b * n];
        for (i, (text, new)) in texts.iter_mut().zip(tokens).enumerate() {
            text.extend_from_slice(new);
            text.drain(..text.len().saturating_sub(n));
            ids[i * n..i * n + text.len()].copy_from_slice(text);
        }
        let ids = Tensor::u32([b, n], ids)?;
        let count = Tensor::u32([b], texts.iter().map(|t| t.len() as u32).collect())?;
        let feed = Feed::new().store(parameters).store(&self.store);
        self.plans.read.run(&feed.input("ids", &ids).input("count", &count))?;
        self.read.iter_mut().zip(tokens).for_each(|(n, new)| *n += new.len() as u64);
        (self.fed, self.drawn) = (texts, false);
        Ok(())
    }

    /// [`feed`](Self::feed), waiting on this thread.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn feed_blocking(&mut self, parameters: &Store, tokens: &[&[u32]]) -> Result<()> {
        pollster::block_on(self.feed(parameters, tokens))
    }

    /// Logits `[b, num_tokens]` of the token after the last one read of each text; zeros where none was read.
    ///
    /// # Errors
    /// What a [device](crate::error#what-a-device-reports) reports.
    pub async fn logits(&self) -> Result<Tensor> {
        self.store.read(LOGITS).await
    }

    /// Continues each text by `count` tokens and returns the new ones. Each text must have been fed at least one token.
    /// [`filter_thres`](super::filter_thres) gives the package's way to draw. Draws as
    /// [`InfiniStream::generate`](crate::models::infini::InfiniStream::generate).
    ///
    /// # Errors
    /// [`Error::Argument`] for values that [`Sampling::check`](crate::ops::select::Sampling::check) refuses, for a text
    /// that is empty so far, and if logits are not finite; [`Error::Name`] if `parameters` lacks one; what a
    /// [device](crate::error#what-a-device-reports) reports.
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

impl Draws for PkmStream {
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
        self.drawn = true;
        Ok(())
    }

    async fn drawn(&self) -> Result<Tensor> {
        self.store.read(DRAWN).await
    }
}
