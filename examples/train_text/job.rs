//! The job: text, model, training, checkpoint, sample.

use crate::corpus::Corpus;
use crate::model::{Model, model};
use crate::report::Report;
use crate::{Args, On};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgrad::data::Prefetch;
use wgrad::train::{AdamW, Schedule, Trainer};
use wgrad::{Device, Error, GpuOptions, Result, TensorType};

/// Steps over which the learning rate rises; after them it stays, so that a shorter run is a prefix of a longer one.
const WARMUP: u64 = 40;
/// Bytes of the sample at the end.
const SAMPLE: usize = 300;
/// Batches that are read before they are needed.
const AHEAD: usize = 2;
/// Steps after which a run saves in between: what a crash or a lost device can cost at most.
const SAVE_EVERY: u64 = 200;

/// Runs the whole job.
pub fn run(args: &Args) -> Result<()> {
    let corpus = match &args.text {
        Some(path) => Corpus::file(path)?,
        None => Corpus::sources(Path::new(env!("CARGO_MANIFEST_DIR")))?,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // Without a handler Ctrl-C ends the run at once; that is no reason not to start.
    let _ = ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst));
    let device = device(args)?;
    say!("device: {device}");
    say!("text: {} bytes, {}", corpus.len(), corpus.origin);
    let model = model(args)?;
    let segment = model.segment_length().unwrap_or(args.segment_length);
    let length = args.segments.saturating_mul(segment).saturating_add(1);
    corpus.segments(length, args.seed)?;

    let mut trainer = trainer(args, &device, &*model, length)?;
    if let Some(path) = &args.resume {
        trainer.load(path)?;
        say!("resumed {} at step {}", path.display(), trainer.steps());
    }
    say!("model: {} parameters, {} bytes on the device", trainer.params().numel(), trainer.bytes());
    if args.print_plan {
        trainer.plans().for_each(|plan| say!("{plan}"));
    }

    // Before training, so that a folder that cannot be made costs no work.
    let save = args.checkpoint();
    if save.is_dir() {
        let message = format!("{} is a folder; name a file", save.display());
        return Err(Error::argument("save", message));
    }
    if let Some(folder) = save.parent().filter(|p| !p.as_os_str().is_empty()) {
        let failed = |e: std::io::Error| Error::Io { path: folder.display().to_string(), message: e.to_string() };
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    // What was learned is saved also when something else fails, such as writing the records.
    let trained = train(args, &corpus, &mut trainer, &device, length, &stop);
    let saved = pollster::block_on(trainer.save(save));
    trained.and(saved)?;
    if !stop.load(Ordering::SeqCst) {
        sample(args, &device, &*model, &trainer)?;
    }
    say!("checkpoint: {} (step {})", save.display(), trainer.steps());
    Ok(())
}

fn device(args: &Args) -> Result<Device> {
    let gpu = || Device::gpu_blocking(GpuOptions { adapter: args.adapter.clone(), ..Default::default() });
    match (args.device, &args.adapter) {
        (On::Cpu, _) => Ok(Device::cpu()),
        (On::Gpu, _) | (On::Auto, Some(_)) => gpu(),
        (On::Auto, None) => Device::auto_blocking(),
    }
}

fn trainer(args: &Args, device: &Device, model: &dyn Model, length: usize) -> Result<Trainer> {
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

fn train(
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

fn sample(args: &Args, device: &Device, model: &dyn Model, trainer: &Trainer) -> Result<()> {
    let prompt: Vec<u32> = args.prompt.bytes().map(u32::from).collect();
    let prompt = if prompt.is_empty() { vec![u32::from(b'\n')] } else { prompt };
    let tokens = model.sample(device, trainer, &prompt, SAMPLE)?;
    let bytes: Vec<u8> = tokens.iter().map(|t| *t as u8).collect();
    say!("--- sample ---\n{}{}\n--- end ---", args.prompt, String::from_utf8_lossy(&bytes));
    Ok(())
}
