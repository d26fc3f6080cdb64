//! Does a router learn? Trains the same small model with learned routing, with the routers of the published package at its
//! own defaults, and with random routing; `--all-heavy` adds one without routing, in which all tokens take the heavy branch.
//!
//! `cargo run --release --example router_learns`
//!
//! The task: among 256 tokens that all carry a vote, 16 are marked, and theirs agree on an answer four times in five; 8
//! others are asked for it. Light attention sees 33 tokens around each; the heavy branch 32 queries and 32 keys of the whole
//! sequence, so it matters which. All runs have the same sizes, steps, batches and learning rate. Prints the loss on
//! held-out sequences, mean ± standard deviation over the seeds, and which share of asked and marked tokens is routed.

mod task;

use clap::Parser;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::time::Instant;
use task::{ANSWERS, ASKED, LENGTH, MARKED, Measured, Routing};
use wgrad::{Device, GpuOptions, Result};

/// Tokens that the heavy branch takes: as queries, as keys and values, in the feed-forward.
const HEAVY: usize = 32;

/// Learned against random routing.
#[derive(Parser)]
struct Args {
    /// Steps of each run
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..))]
    steps: u64,
    /// Seeds, from 0 on
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Learning rate of all runs
    #[arg(long, default_value_t = 5e-3)]
    rate: f64,
    /// Also without routing: all tokens take the heavy branch, at 8 times the queries and keys
    #[arg(long)]
    all_heavy: bool,
    /// Part of the name of a GPU adapter; the CPU executor if absent
    #[arg(long)]
    adapter: Option<String>,
}

/// Mean and standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, (squares / values.len().saturating_sub(1).max(1) as f64).sqrt())
}

/// Prints a row; returns the loss of each seed at the end.
fn row(device: &Device, args: &Args, routing: Routing, name: &str) -> Result<Vec<f64>> {
    let start = Instant::now();
    let runs = (0..args.seeds)
        .into_par_iter()
        .map(|seed| task::train(device, (routing, HEAVY), seed, (args.steps, args.rate)));
    let runs: Vec<Vec<Measured>> = runs.collect::<Result<_>>()?;
    let at = |quarter: usize, of: fn(&Measured) -> f64| -> Vec<f64> {
        runs.iter().filter_map(|run| run.get(quarter).map(of)).collect()
    };
    print!("{name:<22}");
    for quarter in 0..4 {
        let (mean, deviation) = spread(&at(quarter, |m| m.loss));
        print!(" {:>14}", format!("{mean:.3} ± {deviation:.3}"));
    }
    let percent = |of| 100.0 * spread(&at(3, of)).0;
    let (asked, marked) = (percent(|m| m.asked), percent(|m| m.marked));
    let thousand = spread(&at(3, |m| m.operations)).0 / 1e3;
    println!(" {asked:>8.0} % {marked:>8.0} % {thousand:>8.0}k {:>6.0} s", start.elapsed().as_secs_f64());
    Ok(at(3, |m| m.loss))
}

fn main() -> anyhow::Result<()> {
    let args = &Args::parse();
    let device = match &args.adapter {
        Some(_) => Device::gpu_blocking(GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?,
        None => Device::cpu(),
    };
    let Args { steps, seeds, rate, .. } = args;
    println!("device: {device}");
    println!("{LENGTH} tokens, {MARKED} marked, {ASKED} asked, {HEAVY} heavy; {seeds} seeds, learning rate {rate}");
    println!("held-out loss in nats an answer, chance is {:.3}", f64::from(ANSWERS).ln());
    println!();
    print!("{:<22}", "routing");
    (1..=4).for_each(|quarter| print!(" {:>14}", format!("step {}", steps * quarter / 4)));
    println!(" {:>10} {:>10} {:>9} {:>8}", "asked", "marked", "op/token", "time");
    let learned = row(&device, args, Routing::Learned, "learned")?;
    let published = row(&device, args, Routing::Published, "published defaults")?;
    let random = row(&device, args, Routing::Random, "random")?;
    if args.all_heavy {
        row(&device, args, Routing::All, "none, all heavy")?;
    }
    println!();
    for (name, other) in [("published defaults", published), ("random", random)] {
        let below = learned.iter().zip(&other).filter(|(a, b)| a < b).count();
        println!("learned is below {name} with {below} of {seeds} seeds");
    }
    Ok(())
}
