//! Which slots are read, and how evenly.

use super::lookup::Recall;
use crate::error::Result;
use crate::exec::Store;
use crate::graph::{Rows, Var};
use crate::models::parts::{expect, refuse};
use crate::types::{Tensor, TensorType};

/// What is kept of a slot: sum of gates, hits, batches.
const KEPT: usize = 3;

/// Counts on the device how slots are used. Its states lie in a store, apart from the parameters; a run that counts costs
/// what its hits cost, however many slots there are.
#[derive(Clone, Debug)]
pub struct SlotUsage {
    name: String,
    slots: usize,
}

impl SlotUsage {
    /// Counts of a memory with `slots` slots, under a name that no other state has.
    pub fn new(name: impl Into<String>, slots: usize) -> Self {
        SlotUsage { name: name.into(), slots }
    }

    fn states(&self) -> [(String, TensorType); 2] {
        let slots = (format!("{}.slots", self.name), TensorType::f32([self.slots, KEPT]));
        [slots, (format!("{}.batches", self.name), TensorType::u32([]))]
    }

    /// Sets all counts to 0. Plans that [`count`](Self::count) need the store that was given here.
    ///
    /// # Errors
    /// As [`Store::set_zeros`].
    pub fn reset(&self, store: &Store) -> Result<()> {
        self.states().iter().try_for_each(|(name, ty)| store.set_zeros(name, ty))
    }

    /// Adds what `recalls` read to the counts at the end of each run, which is one batch. `tokens` (u32 0/1, a number for
    /// each token of a recall, for each recall or for none) leaves out tokens such as padding. Once a graph; a hit whose gate
    /// is not finite does not count.
    #[track_caller]
    pub fn count<'g>(&self, recalls: &[Recall<'g>], tokens: &[Var<'g>]) {
        let Some(first) = recalls.first() else { return };
        let g = first.slots.graph();
        if !tokens.is_empty() && tokens.len() != recalls.len() {
            let message = format!("{} masks for {} recalls; give one each, or none", tokens.len(), recalls.len());
            return refuse(g, "SlotUsage::count", message);
        }
        let (mut slots, mut kept) = (Vec::new(), Vec::new());
        for (i, recall) in recalls.iter().enumerate() {
            let n = recall.slots.shape().numel();
            let mut hits = recall.slots.reshape([n]);
            if let Some(mask) = tokens.get(i) {
                let per = recall.slots.dim(-1) * recall.slots.dim(-2);
                let count = n.checked_div(per).unwrap_or(0);
                let flat = mask.reshape([mask.shape().numel(), 1]);
                expect(g, "SlotUsage::count: tokens", flat, &TensorType::u32([count, 1]));
                let counts = flat.expand([count, per]).reshape([n]).gt(0);
                hits = counts.select(hits, self.slots as u32);
            }
            let gates = recall.gates.stop_gradient().reshape([n]);
            slots.push(gates.is_finite().select(hits, self.slots as u32));
            kept.push(gates.reshape([n, 1]));
        }
        let hits = Rows::new(slots[0].concat(&slots[1..], 0), kept[0].concat(&kept[1..], 0), self.slots);
        let [(name, ty), (count, one)] = self.states();
        let (table, runs) = (g.state(&name, ty), g.state(&count, one));
        g.assign(table, table.tally_rows(&hits));
        g.assign(runs, runs + 1);
    }

    /// The counts on the host.
    ///
    /// # Errors
    /// As [`Store::read`]; [`Error::Name`](crate::Error::Name) if the store was never [`reset`](Self::reset).
    pub async fn read(&self, store: &Store) -> Result<Usage> {
        let [(slots, _), (batches, _)] = self.states();
        let (table, batches) = (store.read(&slots).await?, store.read(&batches).await?);
        Ok(Usage::new(&table, batches.ints().first().copied().unwrap_or(0)))
    }

    /// [`read`](Self::read), waiting on this thread.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self, store: &Store) -> Result<Usage> {
        pollster::block_on(self.read(store))
    }
}

/// How often each slot was used.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// Times each slot was read; exact up to 2^24.
    pub hits: Vec<f32>,
    /// Sum of the gates it was read with.
    pub weights: Vec<f32>,
    /// Batches in which it was read.
    pub batches: Vec<f32>,
    /// Batches that were counted.
    pub total_batches: u32,
}

impl Usage {
    fn new(table: &Tensor, total_batches: u32) -> Self {
        let column = |i: usize| table.floats().chunks_exact(KEPT).map(|row| row[i]).collect();
        Usage { hits: column(1), weights: column(0), batches: column(2), total_batches }
    }

    /// Slots of the memory.
    pub fn slots(&self) -> usize {
        self.hits.len()
    }

    /// Share of slots that were read at least once, from 0 to 1: "memory usage" of Lample et al.
    pub fn share_used(&self) -> f64 {
        let used = self.hits.iter().filter(|h| **h > 0.0).count();
        used as f64 / self.slots().max(1) as f64
    }

    /// Kullback-Leibler divergence in nats of the distribution of gates over slots from the uniform one, as in Lample et al.
    /// (section 4.5): 0 if all are used alike, ln(slots) if it is always the same one. NaN if nothing was read.
    pub fn kl_to_uniform(&self) -> f64 {
        let weights = || self.weights.iter().map(|w| f64::from(*w)).filter(|w| *w > 0.0);
        let total: f64 = weights().sum();
        if total <= 0.0 {
            return f64::NAN;
        }
        let entropy: f64 = weights().map(|w| -(w / total) * libm::log(w / total)).sum();
        libm::log(self.slots() as f64) - entropy
    }

    /// Numbers of slots: never read, read once, 2 to 3 times, 4 to 7 times, and so on.
    pub fn histogram(&self) -> Vec<usize> {
        let mut counts = vec![0; 1];
        for hits in &self.hits {
            let bin = (u64::BITS - (*hits as u64).leading_zeros()) as usize;
            if counts.len() <= bin {
                counts.resize(bin + 1, 0);
            }
            counts[bin] += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(hits: &[f32]) -> Usage {
        Usage { hits: hits.to_vec(), weights: hits.to_vec(), batches: vec![0.0; hits.len()], total_batches: 0 }
    }

    #[test]
    fn measures() {
        let even = usage(&[3.0; 8]);
        assert_eq!((even.share_used(), even.histogram()), (1.0, vec![0, 0, 8]));
        assert!(even.kl_to_uniform().abs() < 1e-12);
        let one = usage(&[0.0, 5.0, 0.0, 0.0]);
        assert_eq!((one.share_used(), one.histogram()), (0.25, vec![3, 0, 0, 1]));
        assert!((one.kl_to_uniform() - 4f64.ln()).abs() < 1e-12);
        let none = usage(&[0.0; 3]);
        assert!(none.kl_to_uniform().is_nan() && none.share_used() == 0.0);
        // Half of all reads to one of two slots in four: ln 4 - ln 2.
        assert!((usage(&[2.0, 2.0, 0.0, 0.0]).kl_to_uniform() - 2f64.ln()).abs() < 1e-12);
    }
}
