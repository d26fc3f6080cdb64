//! Streaming inference: what is carried, and the keys and values of the current segment, stay on the device. Nothing grows with
//! the text, no plan is compiled per token, and a token takes a pass over itself only.

use super::cache::Place;
use super::transformer::{MOST, MemoryTransformer};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::graph::Graph;
use crate::models::feeding::{Feeding, restore};
use crate::models::generation::{self, Draw, Draws, draw, drawn_type};
use crate::nn::Params;
use crate::ops::select::Sampling;
use crate::types::{Tensor, TensorType};
use std::sync::Arc;

/// Plans of a model for one number of texts: one that reads up to a segment of tokens, one that reads a single token, one that
/// draws that token itself, and one that ends segments.
pub struct MemoryStreamPlans {
    device: Device,
    batch: usize,
    segment: usize,
    num_tokens: usize,
    states: Vec<(String, TensorType)>,
    prefill: Plan,
    decode: Plan,
    draw: Plan,
    turn: Plan,
}

/// One batch of texts being read. What the layers carry, and caches of the current segment, live in a store of its own on the
/// device. All kinds of attention and feed-forward are cached exactly: routers choose a token by those before it only, and what
/// is picked from a memory of inputs is picked once a segment.
pub struct MemoryStream {
    plans: Arc<MemoryStreamPlans>,
    store: Store,
    /// Tokens in the current segment of each text.
    lengths: Vec<usize>,
    /// Tokens read of each text.
    read: Vec<u64>,
    /// Whether caches were made ready to be read.
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

/// States beside those of the layers: tokens in the current segment, tokens in those before, logits after the last one, tokens
/// drawn.
const LENGTH: &str = "stream.length";
const SEEN: &str = "stream.seen";
const LOGITS: &str = "stream.logits";
const DRAWN: &str = "stream.drawn";

/// How far the texts of a stream have come.
fn place(graph: &Graph, batch: usize) -> Place<'_> {
    let state = |name| graph.state(name, TensorType::u32([batch]));
    Place { length: state(LENGTH), seen: state(SEEN) }
}

impl MemoryTransformer {
    /// The plan that reads tokens of each text.
    async fn advance_plan(&self, device: &Device, params: &Params, batch: usize, tokens: Tokens) -> Result<Plan> {
        let graph = Graph::new();
        let p = params.vars(&graph);
        let old = graph.state(LOGITS, TensorType::f32([batch, self.config().num_tokens]));
        let (width, ids, count) = match tokens {
            Tokens::Fed(width) => {
                let ids = graph.input("ids", TensorType::u32([batch, width]));
                (width, ids, graph.input("count", TensorType::u32([batch])))
            }
            Tokens::Drawn => {
                let token = draw(&graph, old, graph.state(DRAWN, drawn_type(batch)));
                (1, token, graph.full_u32([batch], 1))
            }
        };
        let at = place(&graph, batch);
        let mut x = self.embed(&p, ids);
        for layer in &self.layers {
            x = layer.advance(&p, x, at);
        }
        // Logits after the last token that counts; a text that got none keeps its old ones.
        let last = graph.iota([batch], 0) * width as u32 + count.maximum(1) - 1;
        let x = x.reshape([batch * width, self.config().dim]).gather(last);
        let got = count.gt(0).reshape([batch, 1]);
        graph.assign(old, got.select(self.logits(&p, x), old));
        graph.assign(at.length, at.length + count);
        device.compile(&graph, &[]).await
    }

    /// The plan that ends the segments of the texts marked `full`.
    async fn turn_plan(&self, device: &Device, params: &Params, batch: usize) -> Result<Plan> {
        let graph = Graph::new();
        let p = params.vars(&graph);
        let full = graph.input("full", TensorType::u32([batch]));
        let at = place(&graph, batch);
        self.layers.iter().for_each(|layer| layer.turn(&p, at, full));
        let seen = at.seen + full * self.config().segment as u32;
        graph.assign(at.seen, seen.minimum(graph.full_u32([], MOST)));
        graph.assign(at.length, full.select(graph.full_u32([], 0), at.length));
        device.compile(&graph, &[]).await
    }

    /// Compiles the plans of a stream of `batch` texts.
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch of 0; else as [`Device::compile`](crate::Device::compile).
    pub async fn stream_plans(&self, device: &Device, params: &Params, batch: usize) -> Result<Arc<MemoryStreamPlans>> {
        if batch == 0 {
            return Err(Error::argument("stream", "no texts; the batch must be at least 1"));
        }
        let (segment, num_tokens) = (self.config().segment, self.config().num_tokens);
        let mut states = Vec::new();
        for layer in &self.layers {
            states.extend(layer.stream_states(batch)?);
        }
        for (name, ty) in [
            (LENGTH, TensorType::u32([batch])),
            (SEEN, TensorType::u32([batch])),
            (LOGITS, TensorType::f32([batch, num_tokens])),
            (DRAWN, drawn_type(batch)),
        ] {
            states.push((name.to_owned(), ty));
        }
        let advance = |tokens| self.advance_plan(device, params, batch, tokens);
        Ok(Arc::new(MemoryStreamPlans {
            device: device.clone(),
            batch,
            segment,
            num_tokens,
            states,
            prefill: advance(Tokens::Fed(segment)).await?,
            decode: advance(Tokens::Fed(1)).await?,
            draw: advance(Tokens::Drawn).await?,
            turn: self.turn_plan(device, params, batch).await?,
        }))
    }
}

impl MemoryStreamPlans {
    /// Bytes the plans hold on the device, without parameters and streams.
    pub fn bytes(&self) -> u64 {
        [&self.prefill, &self.decode, &self.draw, &self.turn].iter().map(|plan| plan.bytes()).sum()
    }
}

impl MemoryStream {
    /// An empty stream.
    ///
    /// # Errors
    /// As [`Store::set`].
    pub fn new(plans: &Arc<MemoryStreamPlans>) -> Result<Self> {
        let store = Store::new(&plans.device);
        store.reserve(&plans.states)?;
        let b = plans.batch;
        Ok(MemoryStream { plans: plans.clone(), store, lengths: vec![0; b], read: vec![0; b], begun: false })
    }

    /// A stream that goes on where another one, of the same model and batch, was saved: after `read` tokens of each text, its
    /// [`tokens_read`](Self::tokens_read), with the states that `saved` gives by their names in its [`store`](Self::store).
    ///
    /// # Errors
    /// [`Error::Argument`] for other counts or types; what `saved` returns; else as [`new`](Self::new).
    pub fn resume(
        plans: &Arc<MemoryStreamPlans>,
        read: &[u64],
        saved: impl Fn(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut stream = MemoryStream::new(plans)?;
        let states = plans.states.iter().map(|(name, ty)| (name.clone(), ty));
        restore(&stream.store, states, (plans.batch, read), saved)?;
        stream.lengths = read.iter().map(|n| (n % plans.segment as u64) as usize).collect();
        stream.begun = read.iter().any(|n| *n > 0);
        stream.read = read.to_vec();
        Ok(stream)
    }

    /// Bytes of the stream's state on the device: the same after any number of tokens.
    pub fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Tokens read of each text.
    pub fn tokens_read(&self) -> &[u64] {
        &self.read
    }

    /// The state, to save it for [`resume`](Self::resume) or to look at it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Reads more tokens of each text; texts may get different numbers of them, also none. `parameters` is the store of the
    /// model's parameters. Input that is refused changes nothing.
    ///
    /// # Errors
    /// [`Error::Argument`], before anything is read, for another number of texts than the stream has, or a token
    /// outside the vocabulary; [`Error::Name`] if `parameters` lacks one; what a
    /// [device](crate::error#what-a-device-reports) reports.
    pub fn feed(&mut self, parameters: &Store, tokens: &[&[u32]]) -> Result<()> {
        let mut feeding = Feeding::new(tokens, self.plans.batch, self.plans.num_tokens)?;
        if !self.begun {
            self.turn(parameters, vec![0; self.plans.batch])?;
            self.begun = true;
        }
        while let Some(step) = feeding.next(&self.lengths, self.plans.segment)? {
            let plan = if step.is_single() { &self.plans.decode } else { &self.plans.prefill };
            let (feed, count) = (Feed::new().store(parameters).store(&self.store), step.count()?);
            plan.run(&feed.input("ids", &step.ids).input("count", &count))?;
            self.advance(parameters, &step.counts)?;
        }
        Ok(())
    }

    /// Counts tokens that were read, and ends the segments that are full.
    fn advance(&mut self, parameters: &Store, counts: &[usize]) -> Result<()> {
        self.lengths.iter_mut().zip(counts).for_each(|(n, c)| *n += c);
        self.read.iter_mut().zip(counts).for_each(|(n, c)| *n += *c as u64);
        let full: Vec<u32> = self.lengths.iter().map(|n| u32::from(*n == self.plans.segment)).collect();
        if full.iter().all(|f| *f == 0) {
            return Ok(());
        }
        self.turn(parameters, full.clone())?;
        self.lengths.iter_mut().zip(&full).for_each(|(n, f)| *n *= 1 - *f as usize);
        Ok(())
    }

    fn turn(&self, parameters: &Store, full: Vec<u32>) -> Result<()> {
        let full = Tensor::u32([full.len()], full)?;
        self.plans.turn.run(&Feed::new().store(parameters).store(&self.store).input("full", &full))
    }

    /// Logits `[b, num_tokens]` of the token after the last one read of each text; zeros where none was read.
    ///
    /// # Errors
    /// What a [device](crate::error#what-a-device-reports) reports.
    pub async fn logits(&self) -> Result<Tensor> {
        self.store.read(LOGITS).await
    }

    /// Continues each text by `count` tokens, any number, and returns the new ones. Each text must have been fed at least one
    /// token. Draws as [`InfiniStream::generate`](crate::models::infini::InfiniStream::generate).
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
        self.advance(parameters, &vec![1; self.read.len()])
    }

    async fn drawn(&self) -> Result<Tensor> {
        self.store.read(DRAWN).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::mix::MemoryConfig;

    /// A token costs products of one row, or one a head, whatever the segment; its keys go into the caches in place.
    #[test]
    fn a_token_is_read_by_itself() -> Result<()> {
        let config = MemoryConfig::from_json(
            r#"{"num_tokens": 11, "dim": 8, "segment": 53, "heads": 2, "layers": [
                {"attention": {"kind": "full", "context": 48}, "long_memory": {"memories": 59, "selected": 3}},
                {"attention": {"kind": "local", "window": 53}},
                {"attention": {"kind": "infini"}, "feed_forward": {"kind": "routed", "heavy_tokens": 7}},
                {"attention": {"kind": "recurrent", "states": 3}},
                {"attention": {"kind": "routed", "memories": 61, "selected": 3, "heavy_queries": 5}}
            ]}"#,
        )?;
        let model = MemoryTransformer::new(config)?;
        let plans = pollster::block_on(model.stream_plans(&Device::cpu(), &model.init(0), 1))?;
        let caches: Vec<usize> = plans.states.iter().map(|(_, ty)| ty.numel()).filter(|n| *n >= 4 * 53).collect();
        for plan in [&plans.draw, &plans.decode] {
            for step in &plan.program().steps {
                for output in &step.outputs {
                    let (rows, _) = output.shape().rows();
                    assert!(step.op.name() != "matmul" || rows <= 2, "{rows} rows in {plan}");
                    assert!(step.op.name() == "write_rows" || !caches.contains(&output.numel()), "{plan}");
                }
            }
        }
        Ok(())
    }
}
