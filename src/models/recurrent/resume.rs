//! Streams that go on from saved states, or from given memories and states.

use super::stream::RecurrentStream;
use super::stream_plans::{COUNT, RecurrentStreamPlans, WRITTEN};
use crate::error::{Error, Result};
use crate::models::feeding::restore;
use crate::models::stream_states::named;
use crate::types::{Tensor, TensorType};
use std::sync::Arc;

impl RecurrentStream {
    /// A stream that goes on where another one, of the same model and batch, was saved: after `read` tokens of each text, its
    /// [`tokens_read`](Self::tokens_read), with the states that `saved` gives by their names in its [`store`](Self::store).
    ///
    /// # Errors
    /// [`Error::Argument`] for other counts or types; what `saved` returns; else as [`new`](Self::new).
    pub fn resume(
        plans: &Arc<RecurrentStreamPlans>,
        read: &[u64],
        saved: impl Fn(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut stream = RecurrentStream::new(plans)?;
        let own = plans.states.iter().map(|(name, ty)| (named(name), ty));
        let long = plans.long.iter().map(|(name, ty)| (name.clone(), ty));
        restore(stream.store(), own.chain(long), (plans.batch, read), saved)?;
        stream.lengths = read.iter().map(|n| (n % plans.config.block_width as u64) as usize).collect();
        stream.begun = read.iter().any(|n| *n > 0);
        stream.read = read.to_vec();
        Ok(stream)
    }

    /// A stream that goes on where a call of the model ended: with `memories` `[2, b, m, d]` (keys, then values) of each layer
    /// that remembers, and `states` `[b, N, D]` of each that writes them, in the order of the layers. Either may be empty: then
    /// there are none yet. Long memories are empty.
    ///
    /// # Errors
    /// [`Error::Argument`] for other shapes, numbers or batches; else as [`new`](Self::new).
    pub fn from_carried(plans: &Arc<RecurrentStreamPlans>, memories: &[Tensor], states: &[Tensor]) -> Result<Self> {
        let stream = RecurrentStream::new(plans)?;
        let (c, b) = (&plans.config, plans.batch);
        let counts = [("memories", memories.len(), c.memories()), ("states", states.len(), c.writers().len())];
        for (what, got, want) in counts {
            if got != 0 && got != want {
                let message = format!("{got} {what} for {want} layers that have them; pass one each, or none");
                return Err(Error::argument("from_carried", message));
            }
        }
        let rows = memories.first().and_then(|m| m.shape().get(2).copied()).unwrap_or(0);
        if rows > c.memory_rows() {
            let message = format!("memories have {rows} rows; expected at most {}", c.memory_rows());
            return Err(Error::argument("from_carried", message));
        }
        let memory = TensorType::f32([2, b, rows, c.dim_head]);
        let vectors = TensorType::f32([b, c.states(), c.dim]);
        for (what, all, want) in [("memory", memories, memory), ("states", states, vectors)] {
            if let Some((i, bad)) = all.iter().enumerate().find(|(_, t)| t.ty() != want) {
                let message = format!("{what} {i}: expected {want}, got {}", bad.ty());
                return Err(Error::argument("from_carried", message));
            }
        }
        let layers: Vec<usize> = (0..c.depth).filter(|i| c.remembers(i + 1)).collect();
        // Where memories are handed down, a call does so first.
        let first = usize::from(c.enhanced_recurrence);
        for (i, memory) in layers.into_iter().zip(memories.iter().cycle().skip(first)) {
            for (name, part) in
                ["keys", "values"].into_iter().zip(memory.floats().chunks((b * rows * c.dim_head).max(1)))
            {
                let row = c.memory_rows() + c.block_width;
                let mut all = vec![0.0; b * row * c.dim_head];
                let texts = all.chunks_mut(row * c.dim_head).zip(part.chunks((rows * c.dim_head).max(1)));
                for (text, given) in texts {
                    let end = c.memory_rows() * c.dim_head;
                    text[end - given.len()..end].copy_from_slice(given);
                }
                let all = Tensor::f32([b, row, c.dim_head], all)?;
                stream.store().set(&named(&format!("layers.{i}.{name}")), &all)?;
            }
        }
        for (i, vectors) in states.iter().enumerate() {
            stream.store().set(&named(&format!("banks.{i}.vectors")), vectors)?;
        }
        let each = |value: usize| Tensor::u32([b], vec![value as u32; b]);
        stream.store().set(&named(COUNT), &each(rows)?)?;
        stream.store().set(&named(WRITTEN), &each(usize::from(!states.is_empty()))?)?;
        Ok(stream)
    }
}
