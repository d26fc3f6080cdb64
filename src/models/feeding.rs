//! Reading tokens into streams whose plans take as many of each text as a segment has, or a single one.

use crate::error::{Error, Result};
use crate::exec::Store;
use crate::types::{Tensor, TensorType};

/// What the texts of a stream are fed, cut where segments end.
pub(super) struct Feeding<'a> {
    texts: &'a [&'a [u32]],
    /// Tokens of each that were taken.
    taken: Vec<usize>,
    /// Whether there is a plan for a single token.
    single: bool,
}

/// Tokens of one run.
pub(super) struct Step {
    /// u32 `[b, 1]`, or `[b, width]` with zeros behind the tokens.
    pub ids: Tensor,
    /// How many tokens of each text there are.
    pub counts: Vec<usize>,
}

impl Step {
    /// The counts as u32 `[b]`.
    pub fn count(&self) -> Result<Tensor> {
        Tensor::u32([self.counts.len()], self.counts.iter().map(|c| *c as u32).collect())
    }

    /// Whether no text has more than one token.
    pub fn is_single(&self) -> bool {
        self.ids.shape().last() == Some(&1)
    }
}

/// Sets the states of a new stream of `batch` texts to saved ones, after `read` tokens of each.
pub(super) fn restore<'s>(
    store: &Store,
    states: impl Iterator<Item = (String, &'s TensorType)>,
    (batch, read): (usize, &[u64]),
    saved: impl Fn(&str) -> Result<Tensor>,
) -> Result<()> {
    if read.len() != batch {
        let message = format!("{} counts of tokens for {batch} texts; pass one each", read.len());
        return Err(Error::argument("resume", message));
    }
    for (name, ty) in states {
        let value = saved(&name)?;
        if value.ty() != *ty {
            let message = format!("{name}: expected {ty}, got {}; make plans of the same model and batch", value.ty());
            return Err(Error::argument("resume", message));
        }
        store.set(&name, &value)?;
    }
    Ok(())
}

/// Refuses other than `batch` texts, and tokens outside the vocabulary.
pub(super) fn check(texts: &[&[u32]], batch: usize, vocabulary: usize) -> Result<()> {
    if texts.len() != batch {
        let message = format!("{} texts given, the stream has {batch}; pass one each, which may be empty", texts.len());
        return Err(Error::argument("feed", message));
    }
    if let Some(bad) = texts.iter().flat_map(|t| t.iter()).find(|t| **t as usize >= vocabulary) {
        return Err(Error::argument("feed", format!("token {bad} is outside the vocabulary of {vocabulary}")));
    }
    Ok(())
}

impl<'a> Feeding<'a> {
    /// Fails where [`check`] does, before anything is read.
    pub fn new(texts: &'a [&'a [u32]], batch: usize, vocabulary: usize) -> Result<Self> {
        check(texts, batch, vocabulary)?;
        Ok(Feeding { texts, taken: vec![0; batch], single: true })
    }

    /// For streams without a plan for a single token.
    pub fn whole(self) -> Self {
        Feeding { single: false, ..self }
    }

    /// The tokens of the next run: of each text at most as many as its segment of `width` lacks of which it has `lengths`. None
    /// where all were taken.
    pub fn next(&mut self, lengths: &[usize], width: usize) -> Result<Option<Step>> {
        let left = self.texts.iter().zip(&self.taken).map(|(text, taken)| text.get(*taken..).unwrap_or_default());
        let parts: Vec<&[u32]> =
            left.zip(lengths).map(|(left, n)| &left[..left.len().min(width.saturating_sub(*n))]).collect();
        let counts: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let width = match counts.iter().max() {
            None | Some(0) => return Ok(None),
            Some(1) if self.single => 1,
            Some(_) => width,
        };
        let mut ids = vec![0; parts.len() * width];
        for (row, part) in ids.chunks_mut(width).zip(&parts) {
            row[..part.len()].copy_from_slice(part);
        }
        self.taken.iter_mut().zip(&counts).for_each(|(taken, count)| *taken += count);
        Ok(Some(Step { ids: Tensor::u32([parts.len(), width], ids)?, counts }))
    }
}
