//! A layer that remembers 250,000 past inputs on a device that binds 128 MiB at a time, block after block.
//!
//! `cargo run --release --example long_memory`
//!
//! The memory is filled as a stream would fill it, then whole blocks are timed: read (score all memories, pick some, attend)
//! and written. Prints the time of each part, and the memory on the device before and after, for floats, halves, and finished
//! keys and values.
//!
//! A GPU is asked for the limits of every WebGPU device only.

use clap::Parser;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;
use wgrad::models::long_memory::{RoutedMemory, RoutedMemoryConfig};
use wgrad::nn::{Params, Storage};
use wgrad::{Device, Error, Feed, GpuOptions, Graph, Plan, Result, Store, Tensor, TensorType, Var};

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

fn main() -> std::process::ExitCode {
    match run(&Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn device(name: &str) -> Result<Device> {
    let gpu = |adapter| Device::gpu_blocking(GpuOptions { adapter, portable_limits: true, ..Default::default() });
    match name {
        "cpu" => Ok(Device::cpu()),
        "auto" => match gpu(None) {
            Err(Error::NoAdapter { .. } | Error::Limit { .. } | Error::Device { .. }) => Ok(Device::cpu()),
            other => other,
        },
        name => gpu(Some(name.to_owned())),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

fn run(args: &Args) -> Result<()> {
    let device = device(&args.device)?;
    println!("device: {device}");
    println!("{} memories of {}, {} picked for blocks of {}", args.memories, args.dim, args.selected, args.block);
    let base = RoutedMemoryConfig::new(args.dim, args.memories, args.selected);
    let half = RoutedMemoryConfig { storage: Storage::F16, ..base.clone() };
    let finished = RoutedMemoryConfig { finished: true, lookback: None, ..half.clone() };
    measure("floats", &device, args, base, true)?;
    measure("halves", &device, args, half, true)?;
    measure("finished keys and values in halves, no lookback", &device, args, finished, false)
}

/// Plans of a block: read and write, read alone, write alone, and the gradients of all parameters.
struct Plans {
    whole: Plan,
    read: Plan,
    write: Plan,
    gradients: Option<Plan>,
}

fn plans(layer: &RoutedMemory, params: &Params, device: &Device, args: &Args, gradients: bool) -> Result<Plans> {
    let plan = |reads: bool, writes: bool, gradients: bool| {
        let graph = Graph::new();
        let p = params.vars(&graph);
        let x = graph.input("x", TensorType::f32([1, args.block, args.dim]));
        let memory = layer.memory(&graph, "long", 1);
        let mut outputs = Vec::new();
        if reads {
            let y = layer.forward(&p, x, &memory).square().mean_all();
            outputs.push(("y", y));
            if gradients {
                let wrt: Vec<Var<'_>> = params.names().map(|name| p.get(name)).collect();
                let all = graph.grad(y, &wrt);
                outputs.extend(params.names().zip(&all).filter_map(|(name, g)| Some((name, g.dense()?))));
            }
        }
        if writes {
            layer.push(&p, &memory, x, None).commit();
        }
        device.compile_blocking(&graph, &outputs)
    };
    Ok(Plans {
        whole: plan(true, true, false)?,
        read: plan(true, false, false)?,
        write: plan(false, true, false)?,
        gradients: if gradients { Some(plan(true, true, true)?) } else { None },
    })
}

fn measure(what: &str, device: &Device, args: &Args, config: RoutedMemoryConfig, gradients: bool) -> Result<()> {
    let mut params = Params::new(0);
    let layer = RoutedMemory::new(&mut params, "", config)?;
    let plans = plans(&layer, &params, device, args, gradients)?;
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
    let seconds = start.elapsed().as_secs_f64();
    println!("  filled by {fill} writes: {:.2} ms a block", seconds * 1e3 / fill as f64);

    let made = || device.as_gpu().map(|gpu| gpu.counters.snapshot());
    let mut before = None;
    let mut time = |name: &str, plan: &Plan, reads: Option<&str>| -> Result<()> {
        plan.run(&feed())?;
        wait()?;
        before = made();
        let start = Instant::now();
        for _ in 0..args.blocks {
            plan.run(&feed())?;
        }
        wait()?;
        let each = start.elapsed().as_secs_f64() * 1e3 / args.blocks as f64;
        println!("  {name}: {each:.1} ms a block, {} beside the memory", mib(plan.bytes()));
        if let (Some(before), Some(after)) = (before, made()) {
            println!("    made on the device since the first block: {} buffers", after[0] - before[0]);
        }
        if let Some(output) = reads {
            let y = plan.read_blocking(output)?;
            println!("    |{output}| = {:.3e}", y.floats().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt());
        }
        Ok(())
    };
    time("read", &plans.read, Some("y"))?;
    time("read and write", &plans.whole, None)?;
    if let Some(plan) = &plans.gradients {
        time("read and write, with all gradients", plan, Some("routing_token"))?;
    }
    println!("  memory afterwards: {}", mib(store.bytes()));
    Ok(())
}
