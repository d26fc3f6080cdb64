//! Trains a small model of routed blocks to fill in masked bytes, then routes a text: prints which bytes the heavy branches
//! saw, and draws the scores of the routers as `target/routing.svg`.
//!
//! `cargo run --release --example routing -- --text my.txt`

mod picture;
mod routes;

use clap::{Parser, ValueEnum};
use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use routes::{Model, Strip};
use std::path::PathBuf;
use wgrad::train::{AdamW, Schedule, Trainer};
use wgrad::{Device, Error, Result, Tensor, TensorType};

/// Texts side by side in training.
const BATCH: usize = 8;
/// Bytes of a text in training.
const LENGTH: usize = 128;
/// Share of the bytes that are to be filled in.
const MASKED: f64 = 0.15;
/// Stands for a byte that is to be filled in.
const MASK: u32 = 256;

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
    /// Where to run; auto takes a hardware GPU if there is one, else the CPU executor
    #[arg(long, value_enum, default_value_t = On::Auto)]
    device: On,
    /// Seed of parameters and batches
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum On {
    Auto,
    Cpu,
    Gpu,
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

fn run(args: &Args) -> Result<()> {
    let device = match args.device {
        On::Auto => Device::auto_blocking()?,
        On::Cpu => Device::cpu(),
        On::Gpu => Device::gpu_blocking(Default::default())?,
    };
    println!("device: {device}");
    let text = text(args)?;
    let model = Model::new()?;
    let trainer = train(args, &device, &model, &text)?;
    let routed = &text[..text.len().min(args.length as usize)];
    let strips = routes::route(&device, &model, &trainer, routed)?;
    for strip in &strips {
        show(routed, strip);
    }
    let svg = picture::draw(routed, &strips);
    let failed = |e: std::io::Error| Error::Io { path: args.out.display().to_string(), message: e.to_string() };
    if let Some(folder) = args.out.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(&args.out, svg).map_err(failed)?;
    println!("picture: {}", args.out.display());
    Ok(())
}

/// The text, of at least one batch's length.
fn text(args: &Args) -> Result<Vec<u8>> {
    let own = ["README.md", "ARCHITECTURE.md"].map(|name| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name));
    let paths = args.text.clone().map_or(own.to_vec(), |path| vec![path]);
    let mut text = Vec::new();
    for path in paths {
        let failed = |e: std::io::Error| Error::Io { path: path.display().to_string(), message: e.to_string() };
        text.extend(std::fs::read(&path).map_err(failed)?);
    }
    if text.len() < LENGTH {
        let message = format!("has {} bytes, training takes pieces of {LENGTH}; give a longer text", text.len());
        return Err(Error::argument("text", message));
    }
    Ok(text)
}

/// Pieces of the text with some bytes masked, and those bytes as labels, `u32::MAX` elsewhere.
fn batch(text: &[u8], seed: u64, step: u64) -> Result<[Tensor; 2]> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(step);
    let (mut ids, mut labels) = (Vec::new(), Vec::new());
    for _ in 0..BATCH {
        let start = rng.random_range(0..=(text.len() - LENGTH) as u64) as usize;
        for byte in &text[start..start + LENGTH] {
            let masked = rng.random_bool(MASKED);
            ids.push(if masked { MASK } else { u32::from(*byte) });
            labels.push(if masked { u32::from(*byte) } else { u32::MAX });
        }
    }
    Ok([Tensor::u32([BATCH, LENGTH], ids)?, Tensor::u32([BATCH * LENGTH], labels)?])
}

fn train(args: &Args, device: &Device, model: &Model, text: &[u8]) -> Result<Trainer> {
    let mut trainer = Trainer::builder(device, model.params(args.seed), AdamW::default().lr(3e-3))
        .schedule(Schedule::Warmup { steps: 20 })
        .clip(1.0)
        .compile_blocking(|graph, p| {
            let ids = graph.input("ids", TensorType::u32([BATCH, LENGTH]));
            let labels = graph.input("labels", TensorType::u32([BATCH * LENGTH]));
            let logits = model.logits(p, ids).reshape([BATCH * LENGTH, 256]);
            logits.cross_entropy_mean(labels, None)
        })?;
    let bar = ProgressBar::new(args.steps);
    let mut smooth = None;
    for step in 0..args.steps {
        let [ids, labels] = batch(text, args.seed, step)?;
        trainer.step(&[("ids", &ids), ("labels", &labels)])?;
        let loss = f64::from(trainer.loss_blocking()?);
        smooth = Some(smooth.map_or(loss, |s: f64| 0.95 * s + 0.05 * loss));
        bar.set_position(step + 1);
    }
    bar.finish_and_clear();
    if let Some(loss) = smooth {
        println!("after {} steps: {:.2} bits for a masked byte", args.steps, loss / std::f64::consts::LN_2);
    }
    Ok(trainer)
}

/// A class of characters, and whether a byte is in it.
type Class = (&'static str, fn(u8) -> bool);
const CLASSES: [Class; 5] = [
    ("lower case", |b| b.is_ascii_lowercase()),
    ("upper case", |b| b.is_ascii_uppercase()),
    ("digits", |b| b.is_ascii_digit()),
    ("white space", |b| b.is_ascii_whitespace()),
    ("others", |b| !b.is_ascii_alphanumeric() && !b.is_ascii_whitespace()),
];

/// Prints the beginning of the text with routed bytes marked, and the share of routed bytes by class.
fn show(text: &[u8], strip: &Strip) {
    use std::io::IsTerminal;
    let (on, off) = if std::io::stdout().is_terminal() { ("\x1b[7m", "\x1b[0m") } else { ("[", "]") };
    let routed = strip.routed.iter().filter(|r| **r).count();
    println!("\n== {}: {routed} of {} bytes went to the heavy branch", strip.title, text.len());
    let mut line = String::new();
    let mut inside = false;
    for (byte, routed) in text.iter().zip(&strip.routed).take(400) {
        if *routed != inside {
            line.push_str(if *routed { on } else { off });
            inside = *routed;
        }
        line.push(picture::shown(*byte, '·'));
        if *byte == b'\n' {
            // Marks do not reach over the end of a line.
            line.push_str(if inside { off } else { "" });
            line.push('\n');
            inside = false;
        }
    }
    println!("{line}{}", if inside { off } else { "" });
    for (name, is) in CLASSES {
        let all = text.iter().filter(|b| is(**b)).count();
        let heavy = text.iter().zip(&strip.routed).filter(|(b, r)| is(**b) && **r).count();
        if all > 0 {
            println!("{name:>12}: {:>3.0} % of {all}", 100.0 * heavy as f64 / all as f64);
        }
    }
}
