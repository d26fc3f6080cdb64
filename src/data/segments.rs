//! Segments of a token file in a random order that anyone can find again.

use super::TokenFile;
use super::shuffle::{Shuffle, mix};
use crate::error::{Error, Result};
use crate::types::{Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// Where reading is: an epoch, and how many of its segments were handed out. Small, and serializable for a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Passes over the file that are over.
    pub epoch: u64,
    /// Segments of this pass that were handed out.
    pub segment: u64,
}

/// Segments of `length` tokens, each pass over the file in an order of its own, drawn by seed and pass alone. Neighbours
/// overlap by one token, so that every token is predicted once a pass; where the first one begins differs from pass to pass.
#[derive(Clone, Debug)]
pub struct Segments {
    file: TokenFile,
    length: u64,
    seed: u64,
    position: Position,
    /// This reader's part of a batch, of so many.
    part: (u64, u64),
}

/// One pass: where its first segment begins, and the order.
struct Pass {
    first: u64,
    count: u64,
    order: Shuffle,
}

impl Segments {
    /// Segments of `length` tokens, at least 2 and at most as many as the file has.
    ///
    /// # Errors
    /// [`Error::Argument`] for any other length.
    pub fn new(file: TokenFile, length: usize, seed: u64) -> Result<Segments> {
        let tokens = file.len();
        if length < 2 || length as u64 > tokens {
            let message = format!("{length} tokens of a file of {tokens}; give from 2 to as many as there are");
            return Err(Error::argument("segments", message));
        }
        Ok(Segments { file, length: length as u64, seed, position: Position::default(), part: (0, 1) })
    }

    /// Lets this reader have part `rank` of `ranks` of every batch: together they read what one with batches `ranks` times as
    /// large reads.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `rank` is below `ranks`.
    pub fn part(mut self, rank: usize, ranks: usize) -> Result<Segments> {
        if rank >= ranks {
            return Err(Error::argument("segments", format!("part {rank} of {ranks}; parts are numbered from 0")));
        }
        self.part = (rank as u64, ranks as u64);
        Ok(self)
    }

    /// Goes on from a position of an earlier run with the same file, length, seed, parts and batch size.
    pub fn seek(mut self, position: Position) -> Segments {
        self.position = position;
        self
    }

    /// Goes past `segments` segments of all parts together: a run that hands out N of them a step is at its step k after
    /// k N. Costs a look at each pass on the way.
    pub fn skip(mut self, segments: u64) -> Segments {
        let mut left = segments;
        loop {
            let rest = self.per_epoch() - self.position.segment.min(self.per_epoch());
            if left <= rest {
                self.position.segment += left;
                return self;
            }
            left -= rest;
            self.position = Position { epoch: self.position.epoch + 1, segment: 0 };
        }
    }

    /// Where the next batch begins.
    pub fn position(&self) -> Position {
        self.position
    }

    fn pass(&self, epoch: u64) -> Pass {
        let (stride, key) = (self.length - 1, mix(self.seed ^ mix(epoch)));
        let room = self.file.len() - self.length;
        let first = mix(key) % stride.min(room + 1);
        let count = (room - first) / stride + 1;
        Pass { first, count, order: Shuffle::new(count, key) }
    }

    /// Segments of the pass that is under way.
    pub fn per_epoch(&self) -> u64 {
        self.pass(self.position.epoch).count
    }

    /// Passes done, with the part of the one under way: for a progress bar.
    pub fn epochs(&self) -> f64 {
        self.position.epoch as f64 + self.position.segment as f64 / self.per_epoch() as f64
    }

    /// The next `batch` segments, u32 `[batch, length]`. A batch may reach into the next pass.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, and the position stays; [`Error::Limit`] for a batch of more elements
    /// than a tensor can have.
    pub fn next(&mut self, batch: usize) -> Result<Tensor> {
        let shape = [batch, self.length as usize];
        TensorType::u32(shape).check_size(&|| "a batch of segments".to_owned())?;
        let (rank, ranks) = self.part;
        let (batch, mut position) = (batch as u64, self.position);
        let mut pass = self.pass(position.epoch);
        let mut ids = Vec::with_capacity((batch * self.length) as usize);
        for row in 0..batch.saturating_mul(ranks) {
            while position.segment >= pass.count {
                position = Position { epoch: position.epoch + 1, segment: 0 };
                pass = self.pass(position.epoch);
            }
            if row / batch == rank {
                let start = pass.first + pass.order.at(position.segment) * (self.length - 1);
                self.file.read(start..start + self.length, &mut ids)?;
            }
            position.segment += 1;
        }
        self.position = position;
        Tensor::u32(shape, ids)
    }
}
