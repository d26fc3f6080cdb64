//! Data-parallel training with [`wgrad`] over MPI: one process a rank, on one machine or on several.
//!
//! A program calls [`run`] and is started by `mpirun -n 4 PROGRAM`. Each rank builds the same model, hands its [`Ranks`] to
//! [`TrainerBuilder::ranks`](wgrad::train::TrainerBuilder::ranks), which says what the ranks have in common and what is equal
//! to training in one process, and reads its part of every batch
//! ([`Segments::part`](wgrad::data::Segments::part)).
//!
//! ```no_run
//! use wgrad::nn::{Linear, Params};
//! use wgrad::train::{AdamW, Trainer};
//! use wgrad::{GpuOptions, Tensor, TensorType};
//!
//! fn main() -> std::process::ExitCode {
//!     wgrad_mpi::run(|ranks| {
//!         let device = ranks.device(GpuOptions::default())?;
//!         let mut params = Params::new(1);
//!         let layer = Linear::new(&mut params, "layer", 8, 1, true);
//!         let builder = Trainer::builder(&device, params, AdamW::default()).ranks(ranks.clone());
//!         let mut trainer = builder.compile_blocking(|graph, p| {
//!             let x = graph.input("x", TensorType::f32([32, 8]));
//!             layer.forward(p, x).square().mean_all()
//!         })?;
//!         let x = Tensor::f32([32, 8], vec![ranks.rank() as f32; 256])?; // this rank's part of the batch
//!         trainer.step(&[("x", &x)])
//!     })
//! }
//! ```
//!
//! # When a rank dies
//! The others wait for it in their next step. [`run`] ends the whole job when the work of a rank fails or panics, and says
//! which rank it was and why; a process that is killed is reported by `mpirun`, which ends the others. In both cases the
//! last checkpoint that [`Trainer::save`](wgrad::train::Trainer::save) wrote, if there is one, is whole: save now and then,
//! and start the job again from it. Nothing starts it again by itself.
//!
//! A rank whose work returns before the others' is no failure of its own, but the next step of the others is
//! [`Error::Rank`], and so is a call that ranks do not make alike.

#![deny(missing_docs, unsafe_code)]

mod talk;

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use talk::{Call, Talk};
use wgrad::train::Collective;
use wgrad::{Device, Error, GpuOptions, Result};

/// This process among all that `mpirun` has started. Clones are handles of the same rank.
#[derive(Clone)]
pub struct Ranks {
    talk: Arc<Talk>,
}

/// Runs `work` as one rank of the job, and ends the whole job with a message if it fails. To be called once, by `main`; a
/// program that was started without `mpirun` is the only rank.
///
/// MPI is over when this returns, which waits for the work of all ranks.
pub fn run<E: Display>(work: impl FnOnce(&Ranks) -> Result<(), E>) -> ExitCode {
    let talk = match Talk::begin() {
        Ok(talk) => Arc::new(talk),
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ranks = Ranks { talk };
    let done = catch_unwind(AssertUnwindSafe(|| work(&ranks).map_err(|error| error.to_string())));
    let reason = match done {
        Ok(Ok(())) => {
            ranks.talk.end();
            return ExitCode::SUCCESS;
        }
        Ok(Err(reason)) => reason,
        Err(_) => "panicked".to_owned(),
    };
    let (rank, count) = (ranks.rank(), ranks.ranks());
    eprintln!(
        "error: rank {rank} of {count}: {reason}; the job ends: start it again, from its last checkpoint if it has saved one"
    );
    ranks.talk.abort()
}

impl Ranks {
    /// Number of this rank, from 0 on.
    pub fn rank(&self) -> usize {
        self.talk.place.rank
    }

    /// How many there are.
    pub fn ranks(&self) -> usize {
        self.talk.place.ranks
    }

    /// Number of this rank among those on the same machine.
    pub fn local_rank(&self) -> usize {
        self.talk.place.local
    }

    /// A device for this rank: of the adapters that fit the options, the first of the best kind and its equals are dealt out by
    /// [`local_rank`](Self::local_rank), in turn where there are more ranks than adapters. Where there is no GPU and none was
    /// named, the CPU executor. Ranks on devices of different kinds do not train together unless
    /// [`TrainerBuilder::mixed_devices`](wgrad::train::TrainerBuilder::mixed_devices) allows it.
    pub fn device(&self, options: GpuOptions) -> Result<Device> {
        let named = options.adapter.is_some();
        match Device::gpu_blocking(GpuOptions { turn: self.local_rank(), ..options }) {
            Err(Error::NoAdapter { .. }) if !named => Ok(Device::cpu()),
            other => other,
        }
    }
}

impl Collective for Ranks {
    fn rank(&self) -> usize {
        self.talk.place.rank
    }

    fn ranks(&self) -> usize {
        self.talk.place.ranks
    }

    fn gather(&self, words: &[u32]) -> Result<Vec<u32>> {
        self.talk.call(Call::Gather(words.to_vec()))
    }

    fn exchange(&self, words: &[u32]) -> Result<Vec<u32>> {
        self.talk.call(Call::Exchange(words.to_vec()))
    }
}

/// The guide's chapter is compiled like the examples here.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide/src/ranks.md")]
struct Guide;
