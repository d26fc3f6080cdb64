//! Infini-attention finds a passkey at 64 times the length it was trained on, with a memory that does not grow (Munkhdalai
//! et al. 2024, arXiv 2404.07143). With the memory, without it, with the delta rule.
//!
//! `cargo run --release --example claims_infini`

mod support;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Line, Picture, Report, over};
use wgrad::graph::Mode;
use wgrad::models::infini::{InfiniConfig, InfiniStream, InfiniTransformer, SegmentLoss};
use wgrad::train::{AdamW, Schedule, Trainer};
use wgrad::{Device, Result, Tensor, TensorType};

/// Tokens of a segment: all that attention sees without the memory.
const SEGMENT: usize = 16;
/// Segments of a text in training, and of texts in the test.
const TRAINED: usize = 4;
const TESTED: [usize; 4] = [4, 16, 64, 256];
/// Passkeys are the first tokens, then come those of the haystack, the one before the passkey, and the question.
const KEYS: u32 = 16;
const HAY: u32 = 8;
const BATCH: usize = 32;

#[derive(Clone, Copy, PartialEq)]
enum Arm {
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

fn model(arm: Arm) -> Result<InfiniTransformer> {
    let sizes = InfiniConfig { heads: 2, dim_head: 32, head_gate_init_value: 0.0, ..InfiniConfig::new(34, 32, 1) };
    InfiniTransformer::new(InfiniConfig { use_mem_delta_rule: arm == Arm::Delta, ..sizes })
}

/// Share of passkeys found at each length, and bytes of a text's state.
fn train(arm: Arm, seed: u64, steps: usize, texts_tested: usize) -> Result<(Vec<f64>, f64)> {
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

fn run(report: &mut Report) -> Result<()> {
    let (steps, tested) = (report.args.size(1200, 3), report.args.size(4 * BATCH, BATCH));
    let arms = [("with memory", Arm::Memory), ("without memory", Arm::Without), ("memory with delta rule", Arm::Delta)];
    let (mut rows, mut lines, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    let all = report.args.each(&arms, |(_, arm), seed| train(*arm, seed, steps, tested))?;
    for ((name, _), runs) in arms.iter().zip(all) {
        let cells = (0..TESTED.len()).map(|i| over(&runs, 0, |(found, _)| found[i]) + " %");
        rows.push(std::iter::once((*name).to_owned()).chain(cells).collect());
        let at = |i: usize| runs.iter().map(|(found, _)| found[i]).collect();
        let points = TESTED.iter().enumerate().map(|(i, segments)| ((segments * SEGMENT) as f64, at(i)));
        lines.push(Line { name: (*name).to_owned(), points: points.collect() });
        bytes = runs[0].1;
    }
    report.say(&format!("Passkeys found, of {KEYS}; {steps} steps of {BATCH} texts of {} tokens:", TRAINED * SEGMENT));
    report.table(&["tokens of the text", "64 (trained)", "256 (4x)", "1,024 (16x)", "4,096 (64x)"], &rows);
    let axes = ["tokens of the text", "passkeys found, %"];
    report.picture("infini", &Picture { title: "Passkey retrieval", axes, factors: [true, false], lines: &lines })?;
    let c = model(Arm::Memory)?;
    let c = c.config();
    let cache = (2 * c.depth * c.heads * c.dim_head * 4) as f64;
    let kept =
        |tokens: f64| vec![format!("{bytes}"), format!("{}", cache * tokens), format!("{:.1}", cache * tokens / bytes)];
    let lengths = TESTED.iter().map(|segments| (segments * SEGMENT) as f64).chain([1e6]);
    let rows: Vec<_> = lengths.map(|n| [vec![format!("{n}")], kept(n)].concat()).collect();
    report.say(
        "Bytes of a text's state, as its stream holds them (memory, and keys and values of the segment), and of a \
                cache of all keys and values of the same model:",
    );
    report.table(&["tokens", "with memory", "keys and values", "ratio"], &rows);
    // Section 4.1 of the paper: 12 layers of 8 heads of 128 features.
    let (memory, cache) = (12.0 * 8.0 * 128.0 * 129.0, 12.0 * 8.0 * 2.0 * 128.0);
    report.say(&format!(
        "Counted by the same rule for the paper's model (12 layers of 8 heads of 128 features) the memory is {:.2} million \
         numbers at any length; so much is a cache of {:.1} tokens, and a cache of 65,536 tokens is {:.0} times it, one of a \
         million tokens {:.0} times. The paper's 114 times is against a Memorizing Transformer.",
        memory / 1e6,
        memory / cache,
        cache * 65_536.0 / memory,
        cache * 1e6 / memory
    ));
    Ok(())
}

fn main() -> std::process::ExitCode {
    support::program("infini", run)
}
