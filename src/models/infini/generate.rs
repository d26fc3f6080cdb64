//! Generating text.

use super::stream::InfiniStream;
use crate::error::Result;
use crate::exec::Store;
use crate::models::generation;
use crate::ops::select::Sampling;

impl InfiniStream {
    /// Continues each text by `count` tokens and returns the new ones. Each text must have been fed at least one token.
    ///
    /// A token is drawn from the logits by [`Var::sample`](crate::Var::sample). The numbers it is drawn by depend on the
    /// seed, the text's number and how many tokens the first text has, so that generating in several calls gives what one
    /// call gives. The host waits for the device once in [`READ_EVERY`](super::READ_EVERY) tokens: call with a smaller count
    /// to see tokens sooner.
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
