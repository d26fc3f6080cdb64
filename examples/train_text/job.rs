//! The job: text, model, training, checkpoint, sample.

use crate::args::Args;
use crate::corpus::Corpus;
use crate::kinds::On;
use crate::model::{Model, model};
use crate::training::{train, trainer};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgrad::train::Trainer;
use wgrad::{Device, Error, GpuOptions, Result};

/// Bytes of the sample at the end.
const SAMPLE: usize = 300;
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

fn sample(args: &Args, device: &Device, model: &dyn Model, trainer: &Trainer) -> Result<()> {
    let prompt: Vec<u32> = args.prompt.bytes().map(u32::from).collect();
    let prompt = if prompt.is_empty() { vec![u32::from(b'\n')] } else { prompt };
    let tokens = model.sample(device, trainer, &prompt, SAMPLE)?;
    let bytes: Vec<u8> = tokens.iter().map(|t| *t as u8).collect();
    say!("--- sample ---\n{}{}\n--- end ---", args.prompt, String::from_utf8_lossy(&bytes));
    Ok(())
}
