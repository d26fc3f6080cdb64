//! Training on several machines or adapters: each rank computes a part of every batch, and all make the same step.
//!
//! A rank adds up the gradients of its own micro-batches as a single trainer does. Before the optimizer, dense gradients are
//! summed over the ranks, and the hits of tables that are updated by rows are laid side by side: only touched rows travel.
//! Every rank then makes the same step from the same numbers, so that parameters stay equal, bit for bit, without being sent.

#[cfg(not(target_arch = "wasm32"))]
use super::build::{COUNTED, LOSS, TOTAL, gathered};
use super::trainer::Trainer;
use crate::error::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
use crate::trace::span;
use crate::types::{Data, Tensor, TensorType};
use std::hash::Hasher;

/// Elements that are summed at a time: bounds what one exchange holds in memory.
const PIECE: usize = 1 << 22;

/// What ranks that train together need of each other. All ranks make the same calls in the same order; a call waits until
/// every rank has made it. Implemented by `train::Threads` in one process, and over MPI by the crate `wgrad-mpi`.
///
/// ```
/// use wgrad::train::{Collective, Threads};
/// # fn main() -> wgrad::Result<()> {
/// let ranks = Threads::group(2); // both in one process; the crate `wgrad-mpi` has them on several machines
/// let sums = std::thread::scope(|scope| {
///     let sum = |rank: Threads| {
///         let mut values = [rank.rank() as f32, 1.0];
///         rank.sum(&mut values).map(|()| values)
///     };
///     let running: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || sum(rank))).collect();
///     running.into_iter().map(|rank| rank.join().unwrap()).collect::<wgrad::Result<Vec<_>>>()
/// })?;
/// assert_eq!(sums, [[1.0, 2.0]; 2]);
/// # Ok(())
/// # }
/// ```
pub trait Collective: Send + Sync {
    /// Number of this rank, from 0 on.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// The words of every rank, in order of the ranks. All hand over equally many.
    ///
    /// # Errors
    /// [`Error::Rank`] names one that is gone, or that handed over another number.
    fn gather(&self, words: &[u32]) -> Result<Vec<u32>>;

    /// Cuts `words` into as many equal parts as there are ranks and hands part r to rank r; returns what this rank was
    /// handed, in order of the ranks. All hand over equally many.
    ///
    /// # Errors
    /// [`Error::Rank`] names one that is gone, or that handed over another number.
    fn exchange(&self, words: &[u32]) -> Result<Vec<u32>>;

    /// Sums elementwise over all ranks (all-reduce). Every rank gets the same bits: each adds up a part of the elements, in
    /// order of the ranks and in double precision, and then all gather the parts. Whoever replaces it keeps to that.
    ///
    /// # Errors
    /// [`Error::Rank`] names one that is gone, or that handed over another number.
    fn sum(&self, values: &mut [f32]) -> Result<()> {
        let ranks = self.ranks().max(1);
        let each = (PIECE / ranks).max(1);
        for piece in values.chunks_mut(each * ranks) {
            let part = piece.len().div_ceil(ranks);
            let mut words: Vec<u32> = piece.iter().map(|x| x.to_bits()).collect();
            words.resize(part * ranks, 0);
            let theirs = whole(self.exchange(&words)?, part * ranks, self.rank())?;
            let float =
                |rank: usize, i: usize| theirs.get(rank * part + i).map_or(0.0, |w| f64::from(f32::from_bits(*w)));
            let sums: Vec<u32> =
                (0..part).map(|i| ((0..ranks).map(|rank| float(rank, i)).sum::<f64>() as f32).to_bits()).collect();
            let all = whole(self.gather(&sums)?, part * ranks, self.rank())?;
            piece.iter_mut().zip(all).for_each(|(x, word)| *x = f32::from_bits(word));
        }
        Ok(())
    }
}

/// Refuses an answer of the wrong length.
fn whole(words: Vec<u32>, expected: usize, rank: usize) -> Result<Vec<u32>> {
    match words.len() {
        n if n == expected => Ok(words),
        n => Err(Error::Rank { rank, message: format!("expected {expected} words of all ranks, got {n}") }),
    }
}

/// A digest of everything that is written to it, to see whether ranks hold the same.
#[derive(Default)]
pub(super) struct Digest(rustc_hash::FxHasher);

impl Digest {
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub fn value(&self) -> u64 {
        self.0.finish()
    }

    /// That of some bytes.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut digest = Digest::default();
        digest.write(bytes);
        digest.value()
    }
}

impl Trainer {
    /// Number of this rank among those that train together; 0 for a trainer alone.
    pub fn rank(&self) -> usize {
        self.design.ranks.as_ref().map_or(0, |all| all.rank())
    }

    /// How many ranks train together.
    pub fn ranks(&self) -> usize {
        self.design.ranks.as_ref().map_or(1, |all| all.ranks())
    }

    /// Ends what all ranks do together: fails on every rank, and names the first to blame, if one failed by itself or has another
    /// number than rank 0.
    pub(super) fn settle(&self, own: Result<u64>, failed: &str, otherwise: &str) -> Result<()> {
        let Some(all) = &self.design.ranks else { return own.map(drop) };
        let number = *own.as_ref().unwrap_or(&0);
        let words = [u32::from(own.is_ok()), number as u32, (number >> 32) as u32];
        let theirs = all.gather(&words).and_then(|theirs| whole(theirs, words.len() * all.ranks(), all.rank()));
        own?;
        let theirs = theirs?;
        let blame = |rank, message: &str| Err(Error::Rank { rank, message: message.to_owned() });
        if let Some(rank) = theirs.chunks(words.len()).position(|other| other.first() == Some(&0)) {
            return blame(rank, failed);
        }
        match theirs.chunks(words.len()).position(|other| theirs.get(..words.len()) != Some(other)) {
            Some(rank) => blame(rank, otherwise),
            None => Ok(()),
        }
    }

    /// Fails on every rank, and names the first that differs from rank 0, unless all say the same of themselves. The message is
    /// made from what that one says, and what rank 0 says.
    pub(super) fn alike(&self, own: &str, otherwise: impl Fn(&str, &str) -> String) -> Result<()> {
        let Some(all) = &self.design.ranks else { return Ok(()) };
        let gather = |words: &[u32]| whole(all.gather(words)?, words.len() * all.ranks(), all.rank());
        let lengths = gather(&[own.len() as u32])?;
        // All hand over as many words as the longest text takes.
        let longest = lengths.iter().map(|length| (*length as usize).div_ceil(4)).max().unwrap_or(0).max(1);
        let mut bytes = own.as_bytes().to_vec();
        bytes.resize(4 * longest, 0);
        let (words, _) = bytes.as_chunks::<4>();
        let words = gather(&words.iter().map(|word| u32::from_le_bytes(*word)).collect::<Vec<_>>())?;
        let text = |(words, length): (&[u32], &u32)| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take(*length as usize).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let texts: Vec<String> = words.chunks(longest).zip(&lengths).map(text).collect();
        let first = texts.first().map_or("", String::as_str);
        match texts.iter().enumerate().find(|(_, other)| *other != first) {
            None => Ok(()),
            Some((rank, other)) => Err(Error::Rank { rank, message: otherwise(other, first) }),
        }
    }

    /// Refuses ranks that would not make the same steps: by batch, device, settings, program and first values.
    pub(super) fn agree(&self, states: &[(String, TensorType)]) -> Result<()> {
        if self.ranks() == 1 {
            return Ok(());
        }
        let design = &*self.design;
        let inputs: Vec<String> = self.inputs().map(|(name, ty)| format!("{name} {ty}")).collect();
        self.alike(&inputs.join(", "), |theirs, first| {
            format!("trains something else than rank 0: it is given {theirs}, rank 0 {first}; give all ranks batches of one size and type")
        })?;
        let device = if design.mixed { String::new() } else { self.store.device().kind() };
        self.alike(&device, |theirs, first| {
            format!(
                "runs on {theirs}, rank 0 on {first}: they would round differently, and their parameters drift apart; name a device that all of them have, or allow it with TrainerBuilder::mixed_devices"
            )
        })?;
        let settings = format!(
            "{:?} {:?} {} {} {states:?} {}",
            design.settings, design.schedule, design.config, self.seed, design.mixed
        );
        let mut program = Digest::default();
        for one in design.accumulate.iter().chain([&design.apply]) {
            one.describe(&mut |bytes| program.write(bytes));
        }
        let mut values = Digest::default();
        let written = design.params.write(Default::default(), |part| {
            values.write(part);
            Ok(())
        });
        let parts = [
            ("optimizer, settings and seed", Ok(Digest::of(settings.as_bytes()))),
            ("model and loss", Ok(program.value())),
            ("the first values of the parameters", written.map(|()| values.value())),
        ];
        for (what, digest) in parts {
            let otherwise = format!("trains something else than rank 0: {what} must be the same");
            self.settle(digest, "cannot read its parameters", &otherwise)?;
        }
        Ok(())
    }

    /// What a batch is.
    fn inputs(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        let programs = self.design.accumulate.iter().chain([&self.design.apply]);
        programs.flat_map(|program| program.inputs()).filter(|(name, _)| !name.contains('/'))
    }

    /// A state of this rank, with those of all others along the first axis.
    pub(super) fn gather(&self, tensor: Tensor) -> Result<Tensor> {
        let Some(all) = &self.design.ranks else { return Ok(tensor) };
        let expected = tensor.data().len() * all.ranks();
        let joined = |words: &[u32]| whole(all.gather(words)?, expected, all.rank());
        let data = match tensor.data() {
            Data::U32(words) => Data::U32(joined(words)?),
            Data::F32(floats) => {
                let words: Vec<u32> = floats.iter().map(|x| x.to_bits()).collect();
                Data::F32(joined(&words)?.into_iter().map(f32::from_bits).collect())
            }
        };
        Tensor::new(shared(&tensor.ty(), all.ranks()).shape, data)
    }

    /// Between the totals of this rank and the optimizer: sums gradients over all ranks and gathers hits.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn join(&self) -> Result<()> {
        let Some(all) = &self.design.ranks else { return Ok(()) };
        span!(TRACE, "join", rank = all.rank() as u64, step = self.steps).in_scope(|| self.join_with(&**all))
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn join_with(&self, all: &dyn Collective) -> Result<()> {
        let sum = |state: &str| {
            let mut total = self.store.read_blocking(state)?.into_data();
            if let Data::F32(floats) = &mut total {
                all.sum(floats)?;
                self.store.set(state, &Tensor::f32([floats.len()], std::mem::take(floats))?)?;
            }
            Ok::<_, Error>(())
        };
        sum(LOSS)?;
        if self.design.settings.counted {
            sum(COUNTED)?;
        }
        for t in &self.design.trained {
            match &t.table {
                None => sum(&t.state(TOTAL))?,
                Some(table) => {
                    for kind in table.kinds() {
                        let state = t.state(kind);
                        let hits = self.gather(self.store.read_blocking(&state)?)?;
                        self.store.set(&gathered(&state), &hits)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The type of what all ranks have together: the first axis is shared out among them.
pub(super) fn shared(ty: &TensorType, ranks: usize) -> TensorType {
    let mut ty = ty.clone();
    if let Some(first) = ty.shape.0.first_mut() {
        *first *= ranks;
    }
    ty
}
