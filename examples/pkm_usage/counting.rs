//! Batches of a text, and how often each slot is read for them.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::graph::Mode;
use wgrad::models::product_key::{Lookup, PkmTransformer, SlotUsage, Usage};
use wgrad::train::Trainer;
use wgrad::{Device, Feed, Graph, Plan, Result, Store, Tensor, TensorType};

/// Texts side by side, and their length.
pub const BATCH: usize = 4;
pub const LENGTH: usize = 64;
/// Batches that are counted.
const COUNTED: u64 = 40;
/// Pieces of the text of the repository's documents, the same for the same step.
pub fn batch(text: &[u8], step: u64) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(step);
    let mut ids = Vec::with_capacity(BATCH * (LENGTH + 1));
    for _ in 0..BATCH {
        let start = rng.random_range(0..(text.len() - LENGTH) as u64) as usize;
        ids.extend(text[start..=start + LENGTH].iter().map(|b| u32::from(*b)));
    }
    Tensor::u32([BATCH, LENGTH + 1], ids)
}

/// A plan that reads a batch and counts the slots.
pub fn counting(device: &Device, model: &PkmTransformer, trainer: &Trainer, usage: &SlotUsage) -> Result<Plan> {
    let graph = Graph::new();
    let p = trainer.params().vars(&graph);
    let ids = graph.input("ids", TensorType::u32([BATCH, LENGTH + 1]));
    let (_, recalls) = model.loss(&p, ids, &Lookup::new(Mode::Eval, 0));
    usage.count(&recalls, &[]);
    device.compile_blocking(&graph, &[])
}

pub fn count(plan: &Plan, usage: &SlotUsage, trainer: &Trainer, text: &[u8]) -> Result<Usage> {
    let counts = Store::new(trainer.store().device());
    usage.reset(&counts)?;
    for step in 0..COUNTED {
        let ids = batch(text, u64::MAX - step)?;
        plan.run(&Feed::new().store(trainer.store()).store(&counts).input("ids", &ids))?;
    }
    usage.read_blocking(&counts)
}
