//! What outlives a device: a copy of a trainer in host memory, and a new trainer from it.

use super::build::PROGRESS;
use super::trainer::{Design, Trainer};
use crate::device::Device;
use crate::error::Result;
use crate::exec::Store;
use crate::types::Tensor;
use std::sync::Arc;

/// A trainer at one moment, in host memory: every state of its store, its counters, and its programs. It needs no device and
/// no file; [`Trainer::restore`] goes on from it on any device. Clones share the states.
#[derive(Clone)]
pub struct Snapshot {
    design: Arc<Design>,
    states: Arc<[(String, Tensor)]>,
    seed: u64,
    runs: u32,
    steps: u64,
}

impl Snapshot {
    /// Steps up to it, skipped ones included.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Bytes of its states.
    pub fn bytes(&self) -> u64 {
        self.states.iter().map(|(_, tensor)| tensor.data().bytes().len() as u64).sum()
    }
}

impl Trainer {
    /// Copies everything that steps have changed to the host: parameters, moments, totals of micro-batches, what the loss
    /// carries. Between any two calls of [`step`](Self::step). States in stores of [`step_with`](Self::step_with) are the
    /// caller's to keep, by [`Store::read`].
    ///
    /// # Errors
    /// [`DeviceLost`](crate::Error::DeviceLost): take snapshots while the device is well.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let mut states = Vec::new();
        for name in self.store.names() {
            let tensor = self.store.read(&name).await?;
            states.push((name, tensor));
        }
        let design = self.design.clone();
        Ok(Snapshot { design, states: states.into(), seed: self.seed, runs: self.runs, steps: self.steps })
    }

    /// A trainer as it was at the snapshot, on a new device: after a loss of the old one, to move elsewhere, or to go back.
    /// Programs are compiled anew, the model's code is not needed. On an adapter like the first, all that follows is the
    /// same bit for bit.
    ///
    /// ```no_run
    /// # use wgrad::{Device, Error, Result, Tensor, train::Trainer};
    /// # fn f(mut trainer: Trainer, batches: Vec<Tensor>) -> Result<()> {
    /// let mut last = trainer.snapshot_blocking()?;
    /// while (trainer.steps() as usize) < batches.len() {
    ///     let step = trainer.steps() as usize;
    ///     match trainer.step(&[("x", &batches[step])]) {
    ///         Err(Error::DeviceLost { .. }) => trainer = Trainer::restore_blocking(&last, &Device::auto_blocking()?)?,
    ///         other => other?,
    ///     }
    ///     if step % 100 == 99 {
    ///         last = trainer.snapshot_blocking()?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`TrainerBuilder::compile`](super::TrainerBuilder::compile) for the new device's limits and memory. The snapshot
    /// stays as it is.
    pub async fn restore(snapshot: &Snapshot, device: &Device) -> Result<Trainer> {
        let design = &snapshot.design;
        design.params.check_device(device)?;
        let store = Store::new(device);
        let states: Vec<_> = snapshot.states.iter().map(|(name, tensor)| (name.clone(), tensor.ty())).collect();
        store.reserve(&states)?;
        let mut trainer = Trainer::assemble(design.clone(), store, snapshot.seed).await?;
        let mut skipped = 0;
        for (name, tensor) in snapshot.states.iter() {
            trainer.store.set(name, tensor)?;
            if name == PROGRESS {
                skipped = tensor.ints().get(1).copied().unwrap_or(0);
            }
        }
        trainer.go_on(snapshot.runs, snapshot.steps, snapshot.seed, skipped);
        Ok(trainer)
    }

    /// [`snapshot`](Self::snapshot), waiting on this thread.
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn snapshot_blocking(&self) -> Result<Snapshot> {
        pollster::block_on(self.snapshot())
    }

    /// [`restore`](Self::restore), waiting on this thread.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn restore_blocking(snapshot: &Snapshot, device: &Device) -> Result<Trainer> {
        pollster::block_on(Self::restore(snapshot, device))
    }
}
