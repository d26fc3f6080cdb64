//! Growth of time and memory with the length of a sequence, the slots of a memory, the segments read; exponents by least
//! squares of the logarithms.

use crate::measure::{Effort, Times, once};
use crate::report::Row;
use crate::stats::{exponent, spread};
use crate::work::{Training, Work, replay, rng, uniform, wait};
use anyhow::Result;
use rand::RngExt;
use std::time::Instant;
use wgrad::graph::Mode;
use wgrad::models::conditional::{
    BlockConfig, ConditionalRoutedCrossAttention, ConditionalRoutedTransformerBlock, CrossAttentionConfig,
};
use wgrad::models::infini::{InfiniConfig, InfiniStream, InfiniTransformer};
use wgrad::models::product_key::{Lookup, ProductKeyConfig, ProductKeyMemory, VALUES, values_group};
use wgrad::models::recurrent::{BlockRecurrentConfig, BlockRecurrentTransformer, RecurrentStream};
use wgrad::nn::Params;
use wgrad::train::{Adam, Trainer};
use wgrad::{Device, Tensor, TensorType};

const SUITE: &str = "scale";

pub fn rows(
    device: &Device,
    label: &str,
    effort: Effort,
    quick: bool,
    chosen: &dyn Fn(&str) -> bool,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let doublings = |from: usize, times: usize| -> Vec<usize> {
        (0..if quick { times.min(3) } else { times }).map(|i| from << i).collect()
    };
    if chosen("colt5_block_grad") {
        let lengths = doublings(1 << 10, 7);
        rows.extend(grown(device, label, effort, "colt5_block_grad", "tokens", &lengths, &|n| block(device, n))?);
    }
    if chosen("cross_attention") {
        let memories = doublings(1 << 10, 7);
        rows.extend(grown(device, label, effort, "cross_attention", "memories", &memories, &|n| cross(device, n))?);
    }
    if chosen("product_key_rows_step") {
        let keys = doublings(1 << 7, 4);
        let slots: Vec<usize> = keys.iter().map(|n| n * n).collect();
        let make = |slots: usize| product_key(device, slots.isqrt());
        rows.extend(grown(device, label, effort, "product_key_rows_step", "slots", &slots, &make)?);
    }
    let segments = if quick { vec![1, 4, 16] } else { vec![1, 10, 100, 1000] };
    if chosen("infini_segment") {
        rows.extend(infini(device, label, &segments)?);
    }
    if chosen("recurrent_block") {
        rows.extend(recurrent(device, label, &segments)?);
    }
    Ok(rows)
}

/// Times all sizes in rounds, and fits.
fn grown(
    device: &Device,
    label: &str,
    effort: Effort,
    op: &str,
    unit: &str,
    sizes: &[usize],
    make: &dyn Fn(usize) -> Result<Box<dyn Work>>,
) -> Result<Vec<Row>> {
    let mut works = Vec::new();
    for n in sizes {
        let mut work = make(*n)?;
        once(device, &mut *work)?;
        works.push((*n, work, Times::default()));
    }
    let begun = Instant::now();
    for round in 0..effort.rounds {
        if round >= 3 && 1e3 * begun.elapsed().as_secs_f64() > 2.0 * effort.enough {
            break;
        }
        for (_, work, times) in &mut works {
            once(device, &mut **work)?;
            times.wall.push(once(device, &mut **work)?);
        }
    }
    let mut rows = Vec::new();
    for (n, work, times) in &works {
        rows.push(Row {
            suite: SUITE.into(),
            op: op.into(),
            shape: format!("{n} {unit}"),
            device: label.into(),
            ours_ms: times.median(),
            ours_spread: spread(&times.wall),
            device_mib: work.bytes() as f64 / 1048576.0,
            // Without parameters, moments and inputs, which are as large as they are.
            peak_mib: Some(work.plans().iter().map(|p| p.bytes()).sum::<u64>() as f64 / 1048576.0),
            dispatches: work.plans().iter().map(|p| p.dispatches()).sum(),
            runs: times.wall.len(),
            ..Row::default()
        });
    }
    rows.extend(fits(label, op, unit, sizes, &rows));
    Ok(rows)
}

fn fits(label: &str, op: &str, unit: &str, sizes: &[usize], rows: &[Row]) -> Vec<Row> {
    let points = |of: &dyn Fn(&Row) -> f64| -> Vec<(f64, f64)> {
        sizes.iter().zip(rows).map(|(n, row)| (*n as f64, of(row))).collect()
    };
    let span = match (sizes.first(), sizes.last()) {
        (Some(first), Some(last)) => format!("{first} to {last} {unit}"),
        _ => String::new(),
    };
    let time = exponent(&points(&|row| row.ours_ms));
    let memory = exponent(&points(&|row| row.peak_mib.unwrap_or(f64::NAN)));
    vec![
        Row::number(SUITE, label, &format!("{op}: exponent of time"), span.clone(), time, ""),
        Row::number(SUITE, label, &format!("{op}: exponent of memory"), span, memory, ""),
    ]
}

/// Forward and backward of a narrow block, 256 heavy tokens.
fn block(device: &Device, n: usize) -> Result<Box<dyn Work>> {
    let mut params = Params::new(1);
    let module = ConditionalRoutedTransformerBlock::new(&mut params, "", BlockConfig::new(64, 256, 256, 256))?;
    Ok(Box::new(replay(device, |s| {
        let (p, x) = (s.params(&params), s.floats([1, n, 64]));
        s.backward_all(&p, module.forward(&p, x, &module.route()), &[x])
    })?))
}

/// Sixteen queries that two routes of so many memories answer.
fn cross(device: &Device, memories: usize) -> Result<Box<dyn Work>> {
    let mut params = Params::new(1);
    let config = CrossAttentionConfig { kv_routing_tokens: 2, ..CrossAttentionConfig::new(64, 16, 64) };
    let module = ConditionalRoutedCrossAttention::new(&mut params, "", config)?;
    Ok(Box::new(replay(device, |s| {
        let p = s.params(&params);
        vec![module.forward(&p, s.floats([1, 16, 64]), s.floats([1, memories, 64]), &module.route())]
    })?))
}

/// A training step that updates the rows that were read.
fn product_key(device: &Device, num_keys: usize) -> Result<Box<dyn Work>> {
    let mut params = Params::new(1);
    let config = ProductKeyConfig { num_keys, topk: 16, dim_head: 32, ..ProductKeyConfig::new(64) };
    let memory = ProductKeyMemory::new(&mut params, "", config)?;
    let trainer = Trainer::builder(device, params, Adam::default().lr(1e-4))
        .group(VALUES, values_group(1e-4, 1e-2))
        .compile_blocking(|g, p| {
            let x = g.input("x", TensorType::f32([256, 64]));
            memory.forward(p, x, &Lookup::new(Mode::Train, 0)).square().mean_all()
        })?;
    let x = Tensor::f32([256, 64], uniform(&mut rng(), 256 * 64))?;
    Ok(Box::new(Training { trainer, batch: vec![("x", x)] }))
}

/// Milliseconds of one segment after so many, and bytes that plans and stream hold then.
fn segments(
    device: &Device,
    label: &str,
    op: &str,
    counts: &[usize],
    mut feed: impl FnMut() -> Result<u64>,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut done = 0;
    feed()?;
    for count in counts {
        while done + 3 < *count {
            feed()?;
            done += 1;
        }
        let mut times = Times::default();
        let mut bytes = 0;
        for _ in 0..5 {
            wait(device)?;
            let start = Instant::now();
            bytes = feed()?;
            wait(device)?;
            times.wall.push(1e3 * start.elapsed().as_secs_f64());
            done += 1;
        }
        rows.push(Row {
            suite: SUITE.into(),
            op: op.into(),
            shape: format!("{count} segments"),
            device: label.into(),
            ours_ms: times.median(),
            ours_spread: spread(&times.wall),
            device_mib: bytes as f64 / 1048576.0,
            peak_mib: Some(bytes as f64 / 1048576.0),
            runs: times.wall.len(),
            ..Row::default()
        });
    }
    rows.extend(fits(label, op, "segments", counts, &rows));
    Ok(rows)
}

const VOCABULARY: usize = 256;
const SEGMENT: usize = 64;

fn text() -> Vec<u32> {
    let mut rng = rng();
    (0..SEGMENT).map(|_| rng.random_range(0..VOCABULARY as u32)).collect()
}

fn infini(device: &Device, label: &str, counts: &[usize]) -> Result<Vec<Row>> {
    let config = InfiniConfig { dim_head: 32, heads: 4, ..InfiniConfig::new(VOCABULARY, 128, 2) };
    let model = InfiniTransformer::new(config)?;
    let params = model.init(1);
    let store = params.store(device)?;
    let plans = pollster::block_on(model.stream_plans(device, &params, 1, SEGMENT))?;
    let (mut stream, text) = (InfiniStream::new(&plans)?, text());
    segments(device, label, "infini_segment", counts, || {
        stream.feed(&store, &[&text])?;
        Ok(plans.bytes() + stream.bytes())
    })
}

fn recurrent(device: &Device, label: &str, counts: &[usize]) -> Result<Vec<Row>> {
    let config = BlockRecurrentConfig {
        dim_head: 32,
        heads: 4,
        block_width: SEGMENT,
        max_seq_len: SEGMENT,
        ..BlockRecurrentConfig::new(VOCABULARY, 128, 2)
    };
    let model = BlockRecurrentTransformer::new(config)?;
    let params = model.init(1);
    let store = params.store(device)?;
    let plans = pollster::block_on(model.stream_plans(device, &params, 1))?;
    let (mut stream, text) = (RecurrentStream::new(&plans)?, text());
    segments(device, label, "recurrent_block", counts, || {
        stream.feed(&store, &[&text])?;
        Ok(plans.bytes() + stream.bytes())
    })
}
