//! `wgrad bench`: a few operations, for a first look. `cargo xtask bench` measures thoroughly.

use anyhow::{Context, Result};
use std::time::{Duration, Instant};
use wgrad::exec::Roofline;
use wgrad::{Device, Feed, GpuOptions, Graph, Plan, Store, Tensor, TensorType, Var};

#[derive(clap::Args)]
pub struct Args {
    /// "auto", "cpu", or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// Smaller sizes, only to see that everything runs
    #[arg(long)]
    quick: bool,
}

/// Runs of which the median counts.
const RUNS: usize = 7;

fn device(name: &str) -> Result<Device> {
    let named = |adapter| GpuOptions { adapter, timestamps: true, ..Default::default() };
    Ok(match name {
        "cpu" => Device::cpu(),
        "auto" => Device::gpu_blocking(named(None)).or_else(|_| Device::auto_blocking())?,
        part => {
            Device::gpu_blocking(named(Some(part.to_owned()))).context("the adapters are listed by `wgrad adapters`")?
        }
    })
}

type Build = for<'g> fn(&'g Graph, usize) -> Var<'g>;

/// What is measured: name, and the operation at a size. Everything is read from states, so that nothing is uploaded.
const CASES: [(&str, Build); 5] = [
    ("matrix product", |g, n| g.state("a", TensorType::f32([n, n])).matmul(g.state("b", TensorType::f32([n, n])))),
    ("softmax of rows", |g, n| g.state("a", TensorType::f32([n, n])).softmax(1)),
    ("layer of elements", |g, n| (g.state("a", TensorType::f32([n, n])) * 2.0).tanh() + 1.0),
    ("rows of a table", |g, n| {
        let rows = (g.iota([n, 16], 0) * 7919u32 + g.iota([n, 16], 1) * 4099u32).rem((16 * n) as u32);
        g.state("table", TensorType::f32([16 * n, 128])).gather(rows)
    }),
    ("top-k of rows", |g, n| g.state("a", TensorType::f32([n, n])).top_k(16).values),
];

fn states(plan: &Plan) -> Result<Store> {
    let store = Store::new(plan.device());
    for (name, size) in plan.memory().states {
        let info =
            plan.program().buffers.iter().find(|b| matches!(&b.origin, wgrad::plan::Origin::State(n) if **n == *name));
        let Some(info) = info else { continue };
        let n = size as u32 / 4;
        let values = (0..n).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 8) as f32 / (1 << 24) as f32 - 0.5).collect();
        store.set(&name, &Tensor::f32(info.ty.shape.clone(), values)?)?;
    }
    Ok(store)
}

/// One run: by the device's clock where it has one, else by the host's with waiting for a small result.
fn time(plan: &Plan, store: &Store) -> Result<Duration> {
    let start = Instant::now();
    if let Some(time) = plan.run_timed_blocking(&Feed::new().store(store))? {
        return Ok(time);
    }
    plan.read_blocking("end")?;
    Ok(start.elapsed())
}

pub fn run(args: &Args) -> Result<()> {
    let device = device(&args.device)?;
    println!("{device}");
    let roofline = Roofline::measure_blocking(&device)?;
    println!("at most {roofline}");
    let software = device.as_gpu().is_none_or(|gpu| gpu.capabilities().software);
    let n = if args.quick {
        64
    } else if software {
        512
    } else {
        2048
    };
    println!("{:<18} {:>11} {:>9} {:>9} {:>13}", "", "median", "GB/s", "Gop/s", "of roofline");
    for (name, build) in CASES {
        let graph = Graph::new();
        let y = build(&graph, n);
        let end = y.reshape([y.shape().numel()]).slice(0, 0, 1);
        // The whole result is kept: else only its first element would be computed.
        let plan = device.compile_blocking(&graph, &[("y", y), ("end", end)])?;
        let store = states(&plan)?;
        time(&plan, &store)?;
        let mut times: Vec<Duration> = (0..RUNS).map(|_| time(&plan, &store)).collect::<Result<_>>()?;
        times.sort_unstable();
        let (median, explained) = (times[RUNS / 2], plan.explain().with(roofline));
        let seconds = median.as_secs_f64().max(1e-9);
        let bytes: u64 = explained.dispatches.iter().map(|d| d.bytes).sum();
        let operations: u64 = explained.dispatches.iter().map(|d| d.operations).sum();
        let least = explained.at_least().unwrap_or_default().as_secs_f64();
        println!(
            "{name:<18} {:>11} {:>9.2} {:>9.2} {:>11.0} %",
            format!("{median:.1?}"),
            bytes as f64 / seconds / 1e9,
            operations as f64 / seconds / 1e9,
            100.0 * least / seconds
        );
    }
    Ok(())
}
