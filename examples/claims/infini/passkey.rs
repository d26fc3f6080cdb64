//! Texts that hide a passkey, models that look for it, and how many they find.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::graph::Mode;
use wgrad::models::infini::{InfiniConfig, InfiniStream, InfiniTransformer, SegmentLoss};
use wgrad::train::{AdamW, Schedule, Trainer};
use wgrad::{Device, Result, Tensor, TensorType};

/// Tokens of a segment: all that attention sees without the memory.
pub const SEGMENT: usize = 16;
/// Segments of a text in training, and of texts in the test.
pub const TRAINED: usize = 4;
pub const TESTED: [usize; 4] = [4, 16, 64, 256];
/// Passkeys are the first tokens, then come those of the haystack, the one before the passkey, and the question.
pub const KEYS: u32 = 16;
const HAY: u32 = 8;
pub const BATCH: usize = 32;

#[derive(Clone, Copy, PartialEq)]
pub enum Arm {
    Memory,
    Without,
    Delta,
}

/// Texts of so many segments, and their passkeys: hidden anywhere but in the last segment, at whose end they are asked for.
fn texts(rng: &mut ChaCha8Rng, segments: usize) -> (Vec<Vec<u32>>, Vec<u32>) {
    let n = segments * SEGMENT;
    let one = |_| {
        let mut text: Vec<u32> = (0..n).map(|_| KEYS + rng.random_range(0..HAY)).collect();
        let (place, key) = (rng.random_range(0..(n - SEGMENT - 1) as u32) as usize, rng.random_range(0..KEYS));
        (text[place], text[place + 1], text[n - 1]) = (KEYS + HAY, key, KEYS + HAY + 1);
        (text, key)
    };
    (0..BATCH).map(one).unzip()
}

pub fn model(arm: Arm) -> Result<InfiniTransformer> {
    let sizes = InfiniConfig { heads: 2, dim_head: 32, head_gate_init_value: 0.0, ..InfiniConfig::new(34, 32, 1) };
    InfiniTransformer::new(InfiniConfig { use_mem_delta_rule: arm == Arm::Delta, ..sizes })
}

/// Share of passkeys found at each length, and bytes of a text's state.
pub fn train(arm: Arm, seed: u64, steps: usize, texts_tested: usize) -> Result<(Vec<f64>, f64)> {
    let (device, model) = (Device::cpu(), model(arm)?);
    let n = TRAINED * SEGMENT;
    // Without the memory every segment is a text of its own.
    let shape = if arm == Arm::Without { [BATCH * TRAINED, SEGMENT] } else { [BATCH, n] };
    let cut = SegmentLoss { segment_length: SEGMENT, detach_mems_every_num_segments: TRAINED, ..Default::default() };
    let mut trainer = Trainer::builder(&device, model.init(seed), AdamW::default().lr(1e-2).weight_decay(0.0))
        .schedule(Schedule::Cosine { warmup: 50, total: steps as u64, floor: 0.05 })
        .clip(1.0)
        .compile_blocking(|g, p| {
            let [ids, labels] = ["ids", "labels"].map(|name| g.input(name, TensorType::u32(shape)));
            model.segment_loss_of(p, ids, labels, cut, Mode::Train)
        })?;
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..steps {
        let (texts, keys) = texts(rng, TRAINED);
        let labels = keys.iter().flat_map(|key| (0..n).map(move |i| if i + 1 == n { *key } else { u32::MAX }));
        let (ids, labels) = (Tensor::u32(shape, texts.concat())?, Tensor::u32(shape, labels.collect())?);
        trainer.step(&[("ids", &ids), ("labels", &labels)])?;
    }
    let plans = pollster::block_on(model.stream_plans(&device, trainer.params(), BATCH, SEGMENT))?;
    let (mut found, mut bytes) = (Vec::new(), 0.0);
    for segments in TESTED {
        let mut right = 0;
        for _ in 0..texts_tested / BATCH {
            let (texts, keys) = texts(rng, segments);
            let mut stream = InfiniStream::new(&plans)?;
            let seen = if arm == Arm::Without { (segments - 1) * SEGMENT } else { 0 };
            stream.feed(trainer.store(), &texts.iter().map(|text| &text[seen..]).collect::<Vec<_>>())?;
            let logits = pollster::block_on(stream.logits())?;
            let likeliest = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            let answers = logits.floats().chunks(logits.shape()[1]).map(likeliest);
            right += answers.zip(&keys).filter(|(answer, key)| *answer == Some(**key as usize)).count();
            bytes = stream.bytes() as f64 / BATCH as f64;
        }
        found.push(100.0 * right as f64 / texts_tested as f64);
    }
    Ok((found, bytes))
}
