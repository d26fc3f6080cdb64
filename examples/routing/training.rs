//! Texts with bytes missing, and a model that learns to fill them in.

use crate::model::Model;
use indicatif::ProgressBar;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use wgrad::train::{AdamW, Schedule, Trainer};
use wgrad::{Device, Error, Result, Tensor, TensorType};

/// Texts side by side in training.
const BATCH: usize = 8;
/// Bytes of a text in training.
pub const LENGTH: usize = 128;
/// Share of the bytes that are to be filled in.
const MASKED: f64 = 0.15;
/// Stands for a byte that is to be filled in.
const MASK: u32 = 256;

/// The text, of at least one batch's length.
pub fn text(path: Option<&Path>) -> Result<Vec<u8>> {
    let own = ["README.md", "ARCHITECTURE.md"].map(|name| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name));
    let paths = path.map_or(own.to_vec(), |path| vec![path.to_owned()]);
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

pub fn train(device: &Device, model: &Model, text: &[u8], steps: u64, seed: u64) -> Result<Trainer> {
    let mut trainer = Trainer::builder(device, model.params(seed), AdamW::default().lr(3e-3))
        .schedule(Schedule::Warmup { steps: 20 })
        .clip(1.0)
        .compile_blocking(|graph, p| {
            let ids = graph.input("ids", TensorType::u32([BATCH, LENGTH]));
            let labels = graph.input("labels", TensorType::u32([BATCH * LENGTH]));
            let logits = model.logits(p, ids).reshape([BATCH * LENGTH, 256]);
            logits.cross_entropy_mean(labels, None)
        })?;
    let bar = ProgressBar::new(steps);
    let mut smooth = None;
    for step in 0..steps {
        let [ids, labels] = batch(text, seed, step)?;
        trainer.step(&[("ids", &ids), ("labels", &labels)])?;
        let loss = f64::from(trainer.loss_blocking()?);
        smooth = Some(smooth.map_or(loss, |s: f64| 0.95 * s + 0.05 * loss));
        bar.set_position(step + 1);
    }
    bar.finish_and_clear();
    if let Some(loss) = smooth {
        println!("after {} steps: {:.2} bits for a masked byte", steps, loss / std::f64::consts::LN_2);
    }
    Ok(trainer)
}
