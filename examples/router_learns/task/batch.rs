//! Sequences, drawn from seed and step.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::{Result, Tensor};

/// Tokens of a sequence.
pub const LENGTH: usize = 256;
/// Tokens that are marked, and vote for the answer.
pub const MARKED: usize = 16;
/// Tokens that are asked.
pub const ASKED: usize = 8;
/// Possible answers.
pub const ANSWERS: u32 = 8;
/// Things a token may say that mean nothing.
pub const WORDS: u32 = 256;
/// Sequences of a step.
pub const BATCH: usize = 16;
/// Chance that a marked token votes right.
const RIGHT: f32 = 0.8;
/// Label of tokens that are not asked.
pub const NONE: u32 = ANSWERS;

/// Sequences and their answers.
pub struct Batch {
    /// What a token is, u32 `[b, n]`: 0 nothing, 1 marked, 2 asked.
    kinds: Tensor,
    /// The vote of a token, u32 `[b, n]`; that of unmarked tokens means nothing.
    votes: Tensor,
    /// What else a token says, u32 `[b, n]`; it means nothing.
    words: Tensor,
    /// The answer at tokens that are asked, else 8.
    labels: Tensor,
}

impl Batch {
    /// Drawn from seed and step.
    pub fn draw(seed: u64, step: u64) -> Result<Batch> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1 + step);
        let [mut kinds, mut votes, mut words, mut labels] = [const { Vec::new() }; 4];
        for _ in 0..BATCH {
            let answer = rng.random_range(0..ANSWERS);
            let mut kind = [0; LENGTH];
            for (count, is) in [(MARKED, 1), (ASKED, 2)] {
                let mut left = count;
                while left > 0 {
                    let at = rng.random_range(0..LENGTH as u32) as usize;
                    if kind[at] == 0 {
                        kind[at] = is;
                        left -= 1;
                    }
                }
            }
            for is in kind {
                let right = is == 1 && rng.random::<f32>() < RIGHT;
                votes.push(if right { answer } else { rng.random_range(0..ANSWERS) });
                labels.push(if is == 2 { answer } else { NONE });
            }
            kinds.extend(kind);
            words.extend((0..LENGTH).map(|_| rng.random_range(0..WORDS)));
        }
        let tensor = |data| Tensor::u32([BATCH, LENGTH], data);
        Ok(Batch { kinds: tensor(kinds)?, votes: tensor(votes)?, words: tensor(words)?, labels: tensor(labels)? })
    }

    pub fn inputs(&self) -> [(&'static str, &Tensor); 4] {
        [("kinds", &self.kinds), ("votes", &self.votes), ("words", &self.words), ("labels", &self.labels)]
    }
}
