//! Steps of training, their records, and checkpoints in between.

use crate::args::Args;
use crate::corpus::Corpus;
use crate::model::Model;
use crate::report::Report;
use std::sync::atomic::{AtomicBool, Ordering};
use wgrad::data::Prefetch;
use wgrad::train::{AdamW, Schedule, Trainer};
use wgrad::{Device, Error, Result, TensorType};

/// Steps over which the learning rate rises; after them it stays, so that a shorter run is a prefix of a longer one.
const WARMUP: u64 = 40;
/// Batches that are read before they are needed.
const AHEAD: usize = 2;
/// Steps after which a run saves in between: what a crash or a lost device can cost at most.
const SAVE_EVERY: u64 = 200;

/// A trainer for batches of `length` bytes each.
pub fn trainer(args: &Args, device: &Device, model: &dyn Model, length: usize) -> Result<Trainer> {
    let batch = args.batch;
    let builder = Trainer::builder(device, model.init(args.seed), AdamW::default().lr(args.lr));
    let builder = model.groups(args.lr).into_iter().fold(builder, |b, (name, group)| b.group(name, group));
    builder
        .schedule(Schedule::Warmup { steps: WARMUP })
        .clip(1.0)
        .seed(args.seed)
        .config(model.config())
        .compile_blocking(|graph, params| {
            let ids = graph.input("ids", TensorType::u32([batch, length]));
            model.loss(params, ids)
        })
}

/// Trains up to the number of steps that is asked for, or until somebody stops it.
pub fn train(
    args: &Args,
    corpus: &Corpus,
    trainer: &mut Trainer,
    device: &Device,
    length: usize,
    stop: &AtomicBool,
) -> Result<()> {
    let tokens = args.batch * (length - 1);
    let name = device.to_string();
    let json = args.json.as_deref();
    let mut report = Report::new(trainer.steps(), args.steps, tokens, json, name, trainer.bytes())?;
    // Where a run that goes on takes up, in the order of its checkpoint's seed: each step reads one batch.
    let segments = corpus.segments(length, trainer.seed())?.skip(trainer.steps().saturating_mul(args.batch as u64));
    let mut batches = Prefetch::new(segments, args.batch, AHEAD)?;
    while trainer.steps() < args.steps && !stop.load(Ordering::SeqCst) {
        let ids = batches.next()?;
        trainer.step(&[("ids", &ids)])?;
        match trainer.loss_blocking() {
            Ok(loss) => report.step(trainer.steps(), loss, batches.epochs())?,
            Err(e @ Error::NotFinite { .. }) => {
                report.say(&e.to_string());
                if let Some(first) = trainer.first_not_finite_blocking(&[("ids", &ids)], &[])? {
                    report.say(&format!("the first that is not finite: {first}"));
                }
            }
            Err(e) => return Err(e),
        }
        if trainer.steps().is_multiple_of(SAVE_EVERY) {
            pollster::block_on(trainer.save(args.checkpoint()))?;
        }
    }
    if let Some(loss) = report.finish() {
        say!("after step {}: loss {loss:.3} nats, {:.2} bits/byte", trainer.steps(), loss / std::f64::consts::LN_2);
    }
    Ok(())
}
