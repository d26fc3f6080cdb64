//! What a training step of a product-key memory costs as its slots grow from 16,384 to 1,048,576: time and bytes, and how much
//! of the time is the products with the sub-keys, of which there are 2 √slots a head. The rest reads and updates the slots that
//! are hit, whose number is always the same.
//!
//! `cargo bench --bench pkm_scale`, or with `-- --adapter NAME` on a GPU adapter by part of its name.

use clap::Parser;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;
use wgrad::graph::Mode;
use wgrad::models::product_key::{Lookup, ProductKeyConfig, ProductKeyMemory, VALUES, values_group};
use wgrad::nn::Params;
use wgrad::train::{Adam, Trainer};
use wgrad::{Device, Feed, GpuOptions, Graph, Result, Tensor, TensorType};

/// Features of a token and of a value.
const DIM: usize = 64;
/// Learning rates of keys and values.
const LR: f64 = 1e-3;
const VALUES_LR: f64 = 1e-2;

/// Measures steps of training at four sizes of the memory.
#[derive(Parser)]
struct Args {
    /// Part of the name of the GPU adapter to use, software drivers included; hardware or the CPU executor if absent
    #[arg(long)]
    adapter: Option<String>,
    /// Tokens of a step
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Steps that are measured, after as many to warm up
    #[arg(long, default_value_t = 20)]
    steps: u64,
}

/// What is trained.
#[derive(Clone, Copy)]
enum Part {
    /// The whole layer.
    Whole,
    /// Queries, sub-keys and the choice of slots; no values are read.
    Address,
}

fn batch(tokens: usize, seed: u64) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Tensor::f32([tokens, DIM], (0..tokens * DIM).map(|_| rng.random_range(-1.7f32..1.7)).collect())
}

fn trainer(device: &Device, config: &ProductKeyConfig, tokens: usize, part: Part) -> Result<Trainer> {
    let mut params = Params::new(1);
    let memory = ProductKeyMemory::new(&mut params, "memory", config.clone())?;
    Trainer::builder(device, params, Adam::default().lr(LR))
        .group(VALUES, values_group(LR, VALUES_LR))
        .clip(1.0)
        .compile_blocking(|g, p| {
            let x = g.input("x", TensorType::f32([tokens, DIM]));
            let recall = memory.recall(p, x, &Lookup::new(Mode::Train, 0));
            match part {
                Part::Whole => (recall.out - x).square().mean_all(),
                Part::Address => recall.gates.square().mean_all(),
            }
        })
}

/// Milliseconds of the fastest step, each on new tokens.
fn measure(trainer: &mut Trainer, args: &Args) -> Result<f64> {
    let mut times = Vec::new();
    for step in 0..2 * args.steps {
        let x = batch(args.tokens, step)?;
        let start = Instant::now();
        trainer.step(&[("x", &x)])?;
        trainer.loss_blocking()?;
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    Ok(times.into_iter().skip(args.steps as usize).fold(f64::MAX, f64::min))
}

/// Different slots that a step reads.
fn slots_read(device: &Device, config: &ProductKeyConfig, trainer: &Trainer, tokens: usize) -> Result<usize> {
    let memory = ProductKeyMemory::new(&mut Params::new(1), "memory", config.clone())?;
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([tokens, DIM]));
    let slots = memory.recall(&trainer.params().vars(&graph), x, &Lookup::new(Mode::Eval, 0)).slots;
    let plan = device.compile_blocking(&graph, &[("slots", slots)])?;
    plan.run(&Feed::new().store(trainer.store()).input("x", &batch(tokens, 0)?))?;
    let mut slots = plan.read_blocking("slots")?.ints().to_vec();
    slots.sort_unstable();
    slots.dedup();
    Ok(slots.len())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = match &args.adapter {
        None => Device::auto_blocking()?,
        Some(name) => {
            let options = GpuOptions { adapter: Some(name.clone()), software: true, ..Default::default() };
            Device::gpu_blocking(options)?
        }
    };
    println!("device: {device}");
    let config = ProductKeyConfig { dim_head: 32, ..ProductKeyConfig::new(DIM) };
    let hits = args.tokens * config.heads * config.topk;
    println!(
        "{} tokens a step, {} heads of {} slots: {hits} hits of {DIM} features",
        args.tokens, config.heads, config.topk
    );
    println!(
        "{:>9} {:>12} {:>12} | {:>9} {:>9} {:>9}",
        "slots", "stored MiB", "step MiB", "step ms", "keys ms", "slots ms"
    );
    for num_keys in [128, 256, 512, 1024] {
        let config = ProductKeyConfig { num_keys, ..config.clone() };
        let address = measure(&mut trainer(&device, &config, args.tokens, Part::Address)?, &args)?;
        let mut whole = trainer(&device, &config, args.tokens, Part::Whole)?;
        let step = measure(&mut whole, &args)?;
        let hit = slots_read(&device, &config, &whole, args.tokens)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let plans = whole.plans().map(|p| p.bytes()).sum();
        println!(
            "{:>9} {hit:>11} {:>11.1} {:>11.1} | {step:>9.1} {address:>9.1} {:>9.1}",
            config.slots(),
            mib(whole.store().bytes()),
            mib(plans),
            step - address
        );
    }
    Ok(())
}
