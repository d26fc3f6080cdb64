//! A layer that remembers 250,000 past inputs on a device that binds 128 MiB at a time, block after block.
//!
//! `cargo run --release --example long_memory`
//!
//! The memory is filled as a stream would fill it, then blocks are timed: read (score all memories, pick some, attend) and
//! written, for floats, halves, and finished keys and values. A GPU is asked for the limits of every WebGPU device only.

mod plans;

use clap::Parser;
use plans::{mib, plans};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;
use wgrad::models::long_memory::{RoutedMemory, RoutedMemoryConfig};
use wgrad::nn::{Params, Storage};
use wgrad::{Device, Feed, GpuOptions, Plan, Result, Store, Tensor};

/// Reads and writes of a routed memory.
#[derive(Parser)]
struct Args {
    /// Inputs that are remembered
    #[arg(long, default_value_t = 250_000)]
    memories: usize,
    /// Memories that are picked for a block
    #[arg(long, default_value_t = 256)]
    selected: usize,
    /// Tokens of a block
    #[arg(long, default_value_t = 512)]
    block: usize,
    /// Features of a token
    #[arg(long, default_value_t = 512)]
    dim: usize,
    /// Blocks that are timed
    #[arg(long, default_value_t = 5)]
    blocks: usize,
    /// Where to run: auto, cpu, or part of a GPU adapter's name; software drivers only when named
    #[arg(long, default_value = "auto")]
    device: String,
}

fn main() -> anyhow::Result<()> {
    let args = &Args::parse();
    let options = GpuOptions { portable_limits: true, ..Default::default() };
    let device = Device::named_blocking(&args.device, options)?;
    println!("device: {device}");
    println!("{} memories of {}, {} picked for blocks of {}", args.memories, args.dim, args.selected, args.block);
    let base = RoutedMemoryConfig::new(args.dim, args.memories, args.selected);
    let half = RoutedMemoryConfig { storage: Storage::F16, ..base.clone() };
    let finished = RoutedMemoryConfig { finished: true, lookback: None, ..half.clone() };
    measure("floats", &device, args, base, true)?;
    measure("halves", &device, args, half, true)?;
    Ok(measure("finished keys and values in halves, no lookback", &device, args, finished, false)?)
}

fn measure(what: &str, device: &Device, args: &Args, config: RoutedMemoryConfig, gradients: bool) -> Result<()> {
    let mut params = Params::new(0);
    let layer = RoutedMemory::new(&mut params, "", config)?;
    let plans = plans(&layer, &params, device, [1, args.block, args.dim], gradients)?;
    let parameters = params.store(device)?;
    let store = Store::new(device);
    layer.clear(&store, "long", 1)?;
    println!("{what}: {} of memory", mib(store.bytes()));

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let x: Vec<f32> = (0..args.block * args.dim).map(|_| rng.random::<f32>() * 3.4 - 1.7).collect();
    let x = Tensor::f32([1, args.block, args.dim], x)?;
    let feed = || Feed::new().store(&parameters).store(&store).input("x", &x);
    // Reading a few bytes waits for the device.
    let wait = || store.read_blocking("long.written");
    let start = Instant::now();
    let fill = args.memories.div_ceil(args.block);
    for _ in 0..fill {
        plans.write.run(&feed())?;
    }
    wait()?;
    println!("  filled by {fill} writes: {:.2} ms a block", start.elapsed().as_secs_f64() * 1e3 / fill as f64);

    let time = |name: &str, plan: &Plan| -> Result<()> {
        plan.run(&feed())?;
        wait()?;
        let start = Instant::now();
        for _ in 0..args.blocks {
            plan.run(&feed())?;
        }
        wait()?;
        let each = start.elapsed().as_secs_f64() * 1e3 / args.blocks as f64;
        println!("  {name}: {each:.1} ms a block, {} beside the memory", mib(plan.bytes()));
        Ok(())
    };
    time("read", &plans.read)?;
    time("read and write", &plans.whole)?;
    if let Some(plan) = &plans.gradients {
        time("read and write, with all gradients", plan)?;
    }

    Ok(())
}
