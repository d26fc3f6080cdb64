//! Ranks in one process.

use super::ranks::Collective;
use crate::device::lock;
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Ranks that are threads of one process, each with a device of its own: several adapters of a machine, or tests.
///
/// ```
/// use wgrad::nn::{Linear, Params};
/// use wgrad::train::{Sgd, Threads, Trainer};
/// use wgrad::{Device, Tensor, TensorType};
///
/// let losses = std::thread::scope(|scope| {
///     let work = |rank: Threads| {
///         let mut params = Params::new(1);
///         let layer = Linear::new(&mut params, "layer", 1, 1, true);
///         // Each rank has 2 of the 4 rows.
///         let x = Tensor::f32([2, 1], if rank.number() == 0 { vec![1.0, 2.0] } else { vec![3.0, 4.0] })?;
///         let builder = Trainer::builder(&Device::cpu(), params, Sgd::default()).ranks(rank);
///         let mut trainer = builder.compile_blocking(|graph, p| {
///             let x = graph.input("x", TensorType::f32([2, 1]));
///             (layer.forward(p, x) - x * 3.0).square().mean_all()
///         })?;
///         trainer.step(&[("x", &x)])?;
///         trainer.loss_blocking() // the mean over all 4 rows, on both
///     };
///     let ranks: Vec<_> = Threads::group(2).into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
///     ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<wgrad::Result<Vec<f32>>>()
/// });
/// # let losses = losses.unwrap();
/// assert_eq!(losses[0], losses[1]);
/// ```
pub struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

struct Meeting {
    round: Mutex<Round>,
    changed: Condvar,
}

/// What was brought to the call that is under way.
struct Round {
    brought: Vec<Option<Arc<[u32]>>>,
    taken: usize,
    gone: Vec<bool>,
}

impl Threads {
    /// The handles of `ranks` ranks, one for each thread. When one is dropped, calls that wait for it fail on the others.
    pub fn group(ranks: usize) -> Vec<Threads> {
        let round = Round { brought: vec![None; ranks], taken: 0, gone: vec![false; ranks] };
        let meeting = Arc::new(Meeting { round: Mutex::new(round), changed: Condvar::new() });
        (0..ranks).map(|rank| Threads { rank, meeting: meeting.clone() }).collect()
    }

    /// Number of this rank, from 0 on.
    pub fn number(&self) -> usize {
        self.rank
    }

    /// Brings words and returns those of all ranks.
    fn meet(&self, words: &[u32]) -> Result<Vec<Arc<[u32]>>> {
        let Meeting { round, changed } = &*self.meeting;
        let mut round = lock(round);
        let wait = |round| changed.wait(round).unwrap_or_else(PoisonError::into_inner);
        // Until all have taken what was brought to the call before.
        while round.brought[self.rank].is_some() {
            round = wait(round);
        }
        round.brought[self.rank] = Some(words.into());
        changed.notify_all();
        let all = loop {
            if let Some(all) = round.brought.iter().cloned().collect::<Option<Vec<_>>>() {
                break all;
            }
            let missing = |rank: &usize| round.gone[*rank] && round.brought[*rank].is_none();
            if let Some(rank) = (0..round.brought.len()).find(missing) {
                round.brought[self.rank] = None;
                let message =
                    "is gone, so no step can be made together; see what ended it, then go on from a checkpoint";
                return Err(Error::Rank { rank, message: message.into() });
            }
            round = wait(round);
        };
        round.taken += 1;
        if round.taken == round.brought.len() {
            round.brought.fill(None);
            round.taken = 0;
            changed.notify_all();
        }
        drop(round);
        match all.iter().position(|theirs| theirs.len() != words.len()) {
            None => Ok(all),
            Some(rank) => {
                let message = format!("brought {} words where rank {} has {}", all[rank].len(), self.rank, words.len());
                Err(Error::Rank { rank, message })
            }
        }
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        lock(&self.meeting.round).gone.len()
    }

    fn gather(&self, words: &[u32]) -> Result<Vec<u32>> {
        Ok(self.meet(words)?.concat())
    }

    fn exchange(&self, words: &[u32]) -> Result<Vec<u32>> {
        let all = self.meet(words)?;
        let part = words.len() / all.len();
        Ok(all.iter().flat_map(|theirs| &theirs[self.rank * part..][..part]).copied().collect())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        lock(&self.meeting.round).gone[self.rank] = true;
        self.meeting.changed.notify_all();
    }
}
