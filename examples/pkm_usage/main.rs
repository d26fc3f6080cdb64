//! Trains a small language model with a product-key memory for a moment and draws which slots it reads: a picture of two heat
//! maps and a histogram, `target/pkm_usage.svg`.
//!
//! `cargo run --release --example pkm_usage -- --steps 300`

mod counting;
mod histogram;
mod picture;
#[path = "../support/svg.rs"]
mod svg;

use clap::Parser;
use counting::{BATCH, LENGTH, batch, count, counting};
use picture::Panel;
use std::path::{Path, PathBuf};
use wgrad::graph::Mode;
use wgrad::models::product_key::{
    Lookup, PkmTransformer, PkmTransformerConfig, ProductKeyConfig, SlotUsage, Usage, VALUES, values_group,
};
use wgrad::train::{AdamW, Trainer};
use wgrad::{Device, TensorType};

const LR: f64 = 2e-3;

/// Draws how the slots of a product-key memory are used.
#[derive(Parser)]
struct Args {
    /// Steps of training between the two heat maps
    #[arg(long, default_value_t = 300)]
    steps: u64,
    /// Sub-keys of each half; the memory has the square of it as slots
    #[arg(long, default_value_t = 48)]
    keys: usize,
    /// Slots that a head reads for a byte
    #[arg(long, default_value_t = 8)]
    topk: usize,
    /// Where the picture goes
    #[arg(long, default_value = "target/pkm_usage.svg")]
    out: PathBuf,
}

fn say(when: &str, usage: &Usage) -> String {
    let (used, kl) = (100.0 * usage.share_used(), usage.kl_to_uniform());
    println!("{when}: {used:.1} % of {} slots read, KL to uniform {kl:.3} nats", usage.slots());
    format!("{used:.1} % of slots read, KL to uniform {kl:.2} nats")
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = [std::fs::read(root.join("README.md"))?, std::fs::read(root.join("ARCHITECTURE.md"))?].concat();
    let device = Device::auto_blocking()?;
    println!("device: {device}");
    let memory = ProductKeyConfig { num_keys: args.keys, topk: args.topk, dim_head: 16, ..ProductKeyConfig::new(64) };
    let config = PkmTransformerConfig::new(256, 2, LENGTH, memory);
    let model = PkmTransformer::new(PkmTransformerConfig { heads: 4, dim_head: 16, ..config })?;
    let mut trainer = Trainer::builder(&device, model.init(1), AdamW::default().lr(LR))
        .group(VALUES, values_group(LR, 1e-2))
        .clip(1.0)
        .compile_blocking(|graph, p| {
            let ids = graph.input("ids", TensorType::u32([BATCH, LENGTH + 1]));
            model.loss(p, ids, &Lookup::new(Mode::Train, 0)).0
        })?;
    let usage = SlotUsage::new("usage", args.keys * args.keys);
    let plan = counting(&device, &model, &trainer, &usage)?;
    let before = count(&plan, &usage, &trainer, &text)?;
    let first = say("before training", &before);
    for step in 0..args.steps {
        trainer.step(&[("ids", &batch(&text, step)?)])?;
        if step == 0 || (step + 1) % 50 == 0 {
            println!("step {}: loss {:.3}", step + 1, trainer.loss_blocking()?);
        }
    }
    let after = count(&plan, &usage, &trainer, &text)?;
    let second = say("after training", &after);
    let panels = [
        Panel { title: "Before training".into(), note: first, usage: &before },
        Panel { title: format!("After {} steps", args.steps), note: second, usage: &after },
    ];
    let svg = picture::draw(&panels, args.keys);
    std::fs::write(&args.out, svg)?;
    println!("picture: {}", args.out.display());
    Ok(())
}
