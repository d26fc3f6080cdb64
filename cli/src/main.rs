//! `wgrad`: looks into checkpoints and converts them, lists adapters, measures them.

mod adapters;
mod bench;
mod convert;
mod inspect;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "wgrad", version, about = "Checkpoints of memory models, and the adapters that run them")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tensors of a safetensors file, their sizes, and which model they are
    Inspect(inspect::Args),
    /// Write a safetensors file in another element type, with quantised tables, or under the present names
    Convert(convert::Args),
    /// What wgpu sees, with limits, and which executor would run
    Adapters,
    /// Measure a device: copy, matrix product and the operations that memory models spend their time in
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let run = || -> Result<()> {
        match Cli::parse().command {
            Command::Inspect(args) => inspect::run(&args),
            Command::Convert(args) => convert::run(&args),
            Command::Adapters => adapters::run(),
            Command::Bench(args) => bench::run(&args),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Bytes in their unit.
fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=10_485_759 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}
