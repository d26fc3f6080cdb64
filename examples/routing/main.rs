//! Trains a small model of routed blocks to fill in masked bytes, then routes a text: prints which bytes the heavy branches
//! saw, and draws the scores of the routers as `target/routing.svg`.
//!
//! `cargo run --release --example routing -- --text my.txt`

mod model;
mod picture;
mod routes;
mod show;
#[path = "../support/svg.rs"]
mod svg;
mod training;

use clap::Parser;
use model::Model;
use std::path::PathBuf;
use training::LENGTH;
use wgrad::{Device, GpuOptions};

/// Routes a text through CoLT5 blocks and shows what the heavy branches saw.
#[derive(Parser)]
struct Args {
    /// Text to learn and to route; this repository's README and architecture if absent
    #[arg(long)]
    text: Option<PathBuf>,
    /// Steps of training before routing
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Bytes that are routed, from the beginning of the text
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(LENGTH as i64..=65_536))]
    length: u32,
    /// Where the picture goes
    #[arg(long, default_value = "target/routing.svg")]
    out: PathBuf,
    /// Where to run: auto, cpu, or part of a GPU adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// Seed of parameters and batches
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let device = Device::named_blocking(&args.device, GpuOptions::default())?;
    println!("device: {device}");
    let text = training::text(args.text.as_deref())?;
    let model = Model::new()?;
    let trainer = training::train(&device, &model, &text, args.steps, args.seed)?;
    let routed = &text[..text.len().min(args.length as usize)];
    let strips = routes::route(&device, &model, &trainer, routed)?;
    for strip in &strips {
        show::show(routed, strip);
    }
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&args.out, picture::draw(routed, &strips))?;
    println!("picture: {}", args.out.display());
    Ok(())
}
