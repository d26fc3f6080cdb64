//! Checkpoints from PyTorch and back: loads one of each of the four originals, compares its outputs with PyTorch's, trains it
//! a little, and saves it for PyTorch to load again. `originals.py` beside this file writes and reads the other side:
//!
//! ```text
//! pip install -r benches/peers/requirements.txt
//! python examples/pytorch/originals.py export target/pytorch
//! cargo run --release --example pytorch -- target/pytorch
//! python examples/pytorch/originals.py check target/pytorch
//! ```
//!
//! All of it by one command, PyTorch installed if need be: `cargo xtask test --pytorch`.

mod journey;
mod originals;

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;
use wgrad::{Device, GpuOptions};

/// PyTorch's checkpoints, there and back.
#[derive(Parser)]
struct Args {
    /// The folder that originals.py wrote
    folder: PathBuf,
    /// Where to run: auto, cpu, or part of a GPU adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// Steps of training
    #[arg(long, default_value_t = 20)]
    steps: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = Device::named_blocking(&args.device, GpuOptions::default())?;
    println!("{device}");
    for original in originals::originals()? {
        original.there_and_back(&device, &args.folder, args.steps)?;
    }
    Ok(())
}
