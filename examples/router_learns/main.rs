//! Does a router learn? Trains the same small model three ways, with several seeds: with learned routing, with the routers of
//! the published package at its own defaults, and with random routing.
//!
//! `cargo run --release --example router_learns`
//!
//! The task: of 256 tokens 12 are marked and vote for an answer, 4 others are asked for it; all tokens carry votes, so the
//! marks matter. Light attention sees 8 tokens either way; the heavy branch, 16 queries and 16 keys of the whole sequence.
//! Prints the loss in nats an answer as training goes on (chance is ln 8 = 2.08), mean and spread over the seeds, and how
//! many of the marked and of the asked tokens are routed at the end.

mod task;

use clap::Parser;
use std::time::Instant;
use task::{ASKED, HEAVY, LENGTH, MARKED, Outcome, Routing};
use wgrad::{Device, GpuOptions, Result};

/// Learned against random routing.
#[derive(Parser)]
struct Args {
    /// Steps of each run
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(10..))]
    steps: u64,
    /// Seeds, from 0 on
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Part of the name of a GPU adapter; the CPU executor if absent
    #[arg(long)]
    adapter: Option<String>,
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

/// Mean, and distance of the farthest from it.
fn spread(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    (mean, values.iter().fold(0.0, |most: f64, v| most.max((v - mean).abs())))
}

fn run(args: &Args) -> Result<()> {
    let device = match &args.adapter {
        Some(_) => Device::gpu_blocking(GpuOptions { adapter: args.adapter.clone(), ..Default::default() })?,
        None => Device::cpu(),
    };
    println!("device: {device}");
    println!(
        "{LENGTH} tokens, {MARKED} marked, {ASKED} asked; {HEAVY} routed; {} steps, {} seeds",
        args.steps, args.seeds
    );
    println!("loss in nats an answer, mean ± largest deviation over the seeds; ln 8 = 2.079 is chance");
    println!();
    let tenths = [1, 3, 5, 10];
    let heads: Vec<String> = tenths.iter().map(|t| format!("step {}", args.steps * t / 10)).collect();
    print!("{:<30}", "routing");
    heads.iter().for_each(|head| print!(" {head:>14}"));
    println!(" {:>12} {:>12} {:>6}", "asked found", "marked found", "time");
    for (routing, name) in [(Routing::Learned, "learned"), (Routing::Package, "published"), (Routing::Random, "random")]
        .into_iter()
        .filter(|(r, _)| std::env::var("ALL").is_err() || *r == Routing::Learned)
    {
        let start = Instant::now();
        let runs: Vec<Outcome> =
            (0..args.seeds).map(|seed| task::train(&device, routing, seed, args.steps)).collect::<Result<_>>()?;
        print!("{name:<30}");
        for tenth in tenths {
            let losses: Vec<f64> = runs.iter().filter_map(|run| run.losses.get(tenth as usize - 1).copied()).collect();
            let (mean, most) = spread(&losses);
            if std::env::var("ALL").is_ok() && tenth > 3 {
                eprint!("{losses:.2?}");
            }
            print!(" {:>14}", format!("{mean:.3} ± {most:.3}"));
        }
        let share = |of: fn(&Outcome) -> f64| 100.0 * spread(&runs.iter().map(of).collect::<Vec<_>>()).0;
        let (asked, marked) = (share(|run| run.asked), share(|run| run.marked));
        println!(" {asked:>10.1} % {marked:>10.1} % {:>4.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}
