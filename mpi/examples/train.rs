//! Trains a byte-level language model with a product-key memory on several ranks.
//!
//! `mpirun -n 4 target/release/examples/train --text README.md --batch 2` makes the same steps as
//! `mpirun -n 2 … --batch 4` and, without MPI's help, `… --batch 8`. Started again with `--resume FILE`, on any number of ranks
//! that have the same whole batch, it goes on where the file was saved.

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use std::io::Write;
use std::path::PathBuf;
use wgrad::data::{Prefetch, Segments, TokenFile, Width};
use wgrad::graph::Mode;
use wgrad::models::product_key::{
    Lookup, PkmTransformer, PkmTransformerConfig, ProductKeyConfig, VALUES, values_group,
};
use wgrad::train::{AdamW, Schedule, Trainer};
use wgrad::{Device, GpuOptions, TensorType};
use wgrad_mpi::Ranks;

#[derive(Parser)]
struct Args {
    /// Text to learn; on every machine
    #[arg(long)]
    text: PathBuf,
    /// Steps in total; a resumed run goes on to this number
    #[arg(long, default_value_t = 200)]
    steps: u64,
    /// Texts of each rank in a step
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Bytes of a text
    #[arg(long, default_value_t = 64)]
    length: usize,
    #[arg(long, default_value_t = 64)]
    dim: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Learning rate after warming up
    #[arg(long, default_value_t = 2e-3)]
    lr: f64,
    #[arg(long, value_enum, default_value_t = On::Auto)]
    device: On,
    /// Part of an adapter's name; adapters that have it are dealt out to the ranks of a machine
    #[arg(long)]
    adapter: Option<String>,
    /// Where rank 0 writes the checkpoint
    #[arg(long, default_value = "target/ranks.safetensors")]
    save: PathBuf,
    /// Steps between checkpoints: what a rank that dies can cost
    #[arg(long, default_value_t = 50)]
    save_every: u64,
    /// Checkpoint to go on from; on every machine
    #[arg(long)]
    resume: Option<PathBuf>,
    /// Where rank 0 writes a line of JSON a step
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum On {
    Auto,
    Cpu,
    Gpu,
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    wgrad_mpi::run(|ranks| train(&args, ranks).map_err(|error| format!("{error:#}")))
}

fn device(args: &Args, ranks: &Ranks) -> Result<Device> {
    let options = GpuOptions { adapter: args.adapter.clone(), ..Default::default() };
    let device = if args.device == On::Cpu { Device::cpu() } else { ranks.device(options)? };
    ensure!(args.device != On::Gpu || device.is_gpu(), "no GPU for this rank");
    Ok(device)
}

fn model(args: &Args) -> Result<PkmTransformer> {
    let memory = ProductKeyConfig {
        heads: 2,
        num_keys: 32,
        topk: 8,
        dim_head: 16,
        value_dropout: 0.1,
        ..ProductKeyConfig::new(args.dim)
    };
    let config = PkmTransformerConfig {
        heads: 4,
        dim_head: args.dim / 4,
        ..PkmTransformerConfig::new(256, 2, args.length, memory)
    };
    Ok(PkmTransformer::new(config)?)
}

fn train(args: &Args, ranks: &Ranks) -> Result<()> {
    let (rank, count) = (ranks.rank(), ranks.ranks());
    let device = device(args, ranks)?;
    println!("rank {rank} of {count}: process {}, {device}", std::process::id());

    let model = model(args)?;
    let (batch, ids) = (args.batch, TensorType::u32([args.batch, args.length + 1]));
    let mut trainer = Trainer::builder(&device, model.init(args.seed), AdamW::default().lr(args.lr))
        .group(VALUES, values_group(args.lr, 1e-2))
        .schedule(Schedule::Warmup { steps: 20 })
        .clip(1.0)
        .config(format!("{:?}", model.config()))
        .ranks(ranks.clone())
        .compile_blocking(|graph, p| model.loss(p, graph.input("ids", ids), &Lookup::new(Mode::Train, 0)).0)?;
    if let Some(path) = &args.resume {
        trainer.load(path)?;
    }

    // All ranks have the same order of the texts, and each reads its part of it.
    let file = TokenFile::map(&args.text, Width::U8)?;
    let done = trainer.steps() * (batch * count) as u64;
    let segments = Segments::new(file, args.length + 1, trainer.seed())?.part(rank, count)?.skip(done);
    let mut batches = Prefetch::new(segments, batch, 4)?;

    let mut records = args.json.as_ref().filter(|_| rank == 0).map(std::fs::File::create).transpose()?;
    while trainer.steps() < args.steps {
        let ids = batches.next()?;
        trainer.step(&[("ids", &ids)])?;
        let (loss, step) = (trainer.loss_blocking()?, trainer.steps());
        if let Some(file) = &mut records {
            writeln!(file, "{}", serde_json::json!({ "step": step, "loss": loss }))?;
        }
        if rank == 0 && step.is_multiple_of(10) {
            println!("step {step}: loss {loss:.3} nats, {:.2} passes over the text", batches.epochs());
        }
        if step.is_multiple_of(args.save_every) && step < args.steps {
            pollster::block_on(trainer.save(&args.save))?;
        }
    }
    pollster::block_on(trainer.save(&args.save))?;
    if rank == 0 {
        println!("checkpoint: {} (step {})", args.save.display(), trainer.steps());
    }
    Ok(())
}
