//! A task in which it matters which tokens the heavy branch sees: a few marked tokens among many know the answer, and a few
//! others, far away, are asked.

mod batch;
mod measure;
mod model;

pub use batch::{ANSWERS, ASKED, LENGTH, MARKED};
pub use measure::Measured;

use batch::Batch;
use measure::held_out;
use model::Model;
use wgrad::nn::Params;
use wgrad::train::{AdamW, Schedule, Trainer};
use wgrad::{Device, Result};

/// How tokens are routed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Routing {
    /// By routers with this library's defaults.
    Learned,
    /// By routers with the defaults of the published package, version 0.11.2.
    Published,
    /// At random, anew each time.
    Random,
    /// None: all tokens go through the heavy branch.
    All,
}

/// Trains for so many steps on batches that are always new; measures after each quarter. `heavy` tokens of a sequence take the
/// heavy branch: all, if there are no more.
pub fn train(
    device: &Device,
    (routing, heavy): (Routing, usize),
    seed: u64,
    (steps, rate): (u64, f64),
) -> Result<Vec<Measured>> {
    let mut params = Params::new(seed);
    let heavy = if routing == Routing::All { LENGTH } else { heavy };
    let model = Model::new(&mut params, routing, heavy)?;
    let mut trainer = Trainer::builder(device, params, AdamW::default().lr(rate).weight_decay(0.0))
        .schedule(Schedule::Warmup { steps: 20 })
        .clip(1.0)
        .compile_blocking(|_, p| model.loss(p))?;
    let measure = model.measure(device, &trainer)?;
    let operations = model.operations(device, &trainer)?;
    let mut measured = Vec::new();
    for step in 0..steps {
        trainer.step(&Batch::draw(seed, step)?.inputs())?;
        if (step + 1) * 4 / steps.max(1) > measured.len() as u64 {
            measured.push(Measured { operations, ..held_out(&measure, &trainer)? });
        }
    }
    Ok(measured)
}
