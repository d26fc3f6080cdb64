//! Generating text: tokens are drawn on the device and go straight into the next step; the host reads them in batches.

use super::stream::InfiniStream;
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::ops::select::Sampling;

/// Tokens of a text that are generated between two readings.
pub const READ_EVERY: usize = 32;

impl InfiniStream {
    /// Continues each text by `count` tokens and returns the new ones. Each text must have been fed at least one token.
    ///
    /// A token is drawn from the logits by [`Var::sample`](crate::Var::sample). The numbers it is drawn by depend on the
    /// seed, the text's number and how many tokens the first text has, so that generating in several calls gives what one
    /// call gives. The host waits for the device once in [`READ_EVERY`] tokens: call with a smaller count to see tokens
    /// sooner. If the logits of a text are not finite, [`Error::Argument`]; the stream is of no use then.
    pub async fn generate(
        &mut self,
        parameters: &Store,
        count: usize,
        sampling: Sampling,
        seed: u64,
    ) -> Result<Vec<Vec<u32>>> {
        let sampling = sampling.tensors()?;
        if let Some(i) = self.tokens_read().iter().position(|n| *n == 0) {
            let message = format!("text {i} is empty; feed at least one token to continue from");
            return Err(Error::argument("generate", message));
        }
        let mut out: Vec<Vec<u32>> = vec![Vec::with_capacity(count); self.tokens_read().len()];
        for first in (0..count).step_by(READ_EVERY) {
            let n = READ_EVERY.min(count - first);
            for place in 0..n {
                self.draw(parameters, &sampling, seed, place)?;
            }
            let drawn = self.drawn().await?;
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
