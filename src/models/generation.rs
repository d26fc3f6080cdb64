//! Drawing tokens on the device, for the streams of all language models: a token goes straight from the logits into the next
//! step, and the host reads them in batches.

use crate::error::{Error, Result};
use crate::exec::{Feed, Store};
use crate::graph::{Graph, Var};
use crate::ops::select::{Sampling, SamplingVars};
use crate::types::{Tensor, TensorType};

/// Tokens of a text that are generated between two readings.
pub const READ_EVERY: usize = 32;

/// Site of the noise that tokens are drawn by.
const SITE: u32 = u32::MAX;
/// Inputs of a plan that draws, in the order of [`SamplingVars`].
const SAMPLING: [&str; 3] = ["temperature", "top_k", "top_p"];
/// Input: where among the drawn tokens the next one is kept.
const PLACE: &str = "place";

/// Type of the state that keeps the tokens drawn since they were last read.
pub(super) fn drawn_type(batch: usize) -> TensorType {
    TensorType::u32([batch, READ_EVERY])
}

/// A token for each text `[b, 1]` from logits `[b, num_tokens]`, `u32::MAX` where they are not finite. It is kept in the
/// state `drawn`.
pub(super) fn draw<'g>(graph: &'g Graph, logits: Var<'g>, drawn: Var<'g>) -> Var<'g> {
    let (batch, n) = (logits.dim(0), logits.dim(1));
    let types = SamplingVars::types();
    let [temperature, top_k, top_p] = [0, 1, 2].map(|i| graph.input(SAMPLING[i], types[i].clone()));
    let token = logits.sample_with(SamplingVars { temperature, top_k, top_p }, n, SITE);
    let finite = logits.is_finite().to_f32().min(1).gt(0.0);
    let token = finite.select(token.reshape([batch, 1]), u32::MAX);
    let place = graph.input(PLACE, TensorType::u32([]));
    graph.assign(drawn, graph.iota(drawn.shape(), 1).eq(place).select(token, drawn));
    token
}

/// One drawing of a stream: what its plan is fed with besides the stores.
pub(super) struct Draw<'a> {
    sampling: &'a [Tensor; 3],
    place: Tensor,
    seed: u64,
}

impl<'a> Draw<'a> {
    /// Adds the inputs, and the numbers the token is drawn by: they depend on the seed and on `step`.
    pub fn feed(&'a self, mut feed: Feed<'a>, step: u64) -> Feed<'a> {
        feed = feed.step(step as u32, self.seed).input(PLACE, &self.place);
        for (name, value) in SAMPLING.into_iter().zip(self.sampling) {
            feed = feed.input(name, value);
        }
        feed
    }
}

/// A stream that can draw.
pub(super) trait Draws {
    /// Tokens read of each text.
    fn tokens_read(&self) -> &[u64];
    /// Refuses to go on by `count` tokens where that is known beforehand.
    fn check_room(&self, count: usize) -> Result<()>;
    /// Draws one token for each text and reads it, without waiting for the device.
    fn draw(&mut self, parameters: &Store, draw: &Draw<'_>) -> Result<()>;
    /// The tokens drawn, `[b, READ_EVERY]`.
    async fn drawn(&self) -> Result<Tensor>;
}

/// Continues each text of a stream by `count` tokens.
pub(super) async fn generate(
    stream: &mut impl Draws,
    parameters: &Store,
    count: usize,
    sampling: Sampling,
    seed: u64,
) -> Result<Vec<Vec<u32>>> {
    let sampling = sampling.tensors()?;
    if let Some(i) = stream.tokens_read().iter().position(|n| *n == 0) {
        let message = format!("text {i} is empty; feed at least one token to continue from");
        return Err(Error::argument("generate", message));
    }
    stream.check_room(count)?;
    let mut out: Vec<Vec<u32>> = vec![Vec::new(); stream.tokens_read().len()];
    for first in (0..count).step_by(READ_EVERY) {
        let n = READ_EVERY.min(count - first);
        for place in 0..n {
            let place = Tensor::u32([], vec![place as u32])?;
            stream.draw(parameters, &Draw { sampling: &sampling, place, seed })?;
        }
        let drawn = stream.drawn().await?;
        for (i, (text, row)) in out.iter_mut().zip(drawn.ints().chunks(READ_EVERY)).enumerate() {
            if row.iter().take(n).any(|token| *token == u32::MAX) {
                let message =
                    format!("the logits of text {i} are not finite; the parameters have overflowed or are damaged");
                return Err(Error::argument("generate", message));
            }
            text.extend(row.iter().take(n));
        }
    }
    Ok(out)
}
