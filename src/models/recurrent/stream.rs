//! Streaming inference: memories, states and the keys and values of the current block stay on the device, and nothing grows
//! with the length of the text.

use super::stream_plans::{DRAWN, LOGITS, RecurrentStreamPlans};
use crate::error::Result;
use crate::exec::{Feed, Store};
use crate::models::feeding::Feeding;
use crate::models::generation::{self, Draw, Draws};
use crate::models::stream_states::{self, named};
use crate::ops::select::Sampling;
use crate::types::Tensor;
use std::sync::Arc;

/// What the package's filter `filter_thres` leaves: the `ceil((1 - thres) num_tokens)` likeliest tokens, at least one. Its own
/// defaults are a threshold of 0.9 and a temperature of 1.
pub fn filter_thres(num_tokens: usize, thres: f64, temperature: f32) -> Sampling {
    let k = ((1.0 - thres) * num_tokens as f64).ceil() as usize;
    Sampling { temperature, top_k: Some(k.clamp(1, num_tokens.max(1))), top_p: None }
}

/// One batch of texts being read. Its memories, states and caches live in a store of its own on the device.
pub struct RecurrentStream {
    plans: Arc<RecurrentStreamPlans>,
    store: Store,
    /// Tokens in the current block of each text.
    pub(super) lengths: Vec<usize>,
    /// Tokens read of each text.
    pub(super) read: Vec<u64>,
    /// Whether states and memories were made ready to be read.
    pub(super) begun: bool,
}

impl RecurrentStream {
    /// An empty stream: nothing read, no memories, the learned first states.
    ///
    /// # Errors
    /// As [`Store::set_zeros`](crate::Store::set_zeros).
    pub fn new(plans: &Arc<RecurrentStreamPlans>) -> Result<Self> {
        let store = Store::new(&plans.device);
        stream_states::zeros(&store, &plans.states)?;
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

    /// The state, to save it for [`resume`](Self::resume) or to look at it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Reads more tokens of each text; texts may get different numbers of them, also none. `parameters` is the store of the
    /// model's parameters. Blocks that fill up go into memories and states. Refused input changes nothing.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument), before anything is read, for another number of texts than the
    /// stream has, or a token outside the vocabulary; [`Error::Name`](crate::Error::Name) if `parameters` lacks one;
    /// what a [device](crate::error#what-a-device-reports) reports.
    pub fn feed(&mut self, parameters: &Store, tokens: &[&[u32]]) -> Result<()> {
        let (b, w) = (self.plans.batch, self.plans.config.block_width);
        let mut feeding = Feeding::new(tokens, b, self.plans.config.num_tokens)?;
        if !self.begun {
            self.run_turn(parameters, vec![0; b])?;
            self.begun = true;
        }
        while let Some(step) = feeding.next(&self.lengths, w)? {
            let plan = if step.is_single() { &self.plans.decode } else { &self.plans.prefill };
            let (feed, count) = (Feed::new().store(parameters).store(&self.store), step.count()?);
            plan.run(&feed.input("ids", &step.ids).input("count", &count))?;
            self.advance(parameters, &step.counts)?;
        }
        Ok(())
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
    ///
    /// # Errors
    /// What a [device](crate::error#what-a-device-reports) reports.
    pub async fn logits(&self) -> Result<Tensor> {
        self.store.read(&named(LOGITS)).await
    }

    /// Continues each text by `count` tokens, any number, and returns the new ones. Each text must have been fed at least one
    /// token. Draws as [`InfiniStream::generate`](crate::models::infini::InfiniStream::generate).
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for values that
    /// [`Sampling::check`](crate::ops::select::Sampling::check) refuses, for a text that is empty so far, and if logits
    /// are not finite; [`Error::Name`](crate::Error::Name) if `parameters` lacks one; what a
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
