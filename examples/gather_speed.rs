//! How close weighted sums of rows of a large table come to the speed of memory: GB/s of what must be read and written at
//! the least, beside a copy in the same process. Rows are drawn at random from tables larger than a core's cache.
//!
//! `cargo run --release --example gather_speed`, or with `-- --adapter NAME` on a GPU adapter by part of its name. Measured
//! one after the other, again and again, so that other jobs slow all of them down alike; medians.

use clap::Parser;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::time::Instant;
use wgrad::graph::{Factors, Rows};
use wgrad::{Device, Feed, GpuOptions, Graph, Plan, Result, Store, Tensor, TensorType, Var};

/// Measures gathering.
#[derive(Parser)]
struct Args {
    /// Part of the name of the GPU adapter to use, software drivers included; the CPU executor if absent
    #[arg(long)]
    adapter: Option<String>,
    /// Sums of rows, as 4 heads of as many tokens make them
    #[arg(long, default_value_t = 2048)]
    sums: usize,
    /// Rows that are added up in each
    #[arg(long, default_value_t = 128)]
    per: usize,
    /// Times that everything is measured
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

/// An operation to be measured.
struct Case {
    name: &'static str,
    plan: Plan,
    /// Bytes that it must read or write.
    traffic: usize,
    times: Vec<f64>,
}

/// A table and what is read from it.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    width: usize,
    sums: usize,
    per: usize,
}

impl Sizes {
    fn case(
        self,
        device: &Device,
        name: &'static str,
        traffic: usize,
        y: impl for<'g> Fn(Inputs<'g>) -> Var<'g>,
    ) -> Result<Case> {
        let graph = Graph::new();
        let Sizes { rows, width, sums, per } = self;
        let inputs = Inputs {
            table: graph.state("table", TensorType::f32([rows, width])),
            indices: graph.state("indices", TensorType::u32([sums, per])),
            weights: graph.state("weights", TensorType::f32([sums, per])),
            vectors: graph.state("vectors", TensorType::f32([sums, width])),
        };
        let y = y(inputs);
        // A single element comes back, to know when all is done.
        let last = y.reshape([y.shape().numel()]).slice(0, 0, 1);
        let plan = device.compile_blocking(&graph, &[("last", last)])?;
        Ok(Case { name, plan, traffic, times: Vec::new() })
    }

    /// All operations.
    fn cases(self, device: &Device) -> Result<Vec<Case>> {
        let Sizes { rows, width, sums, per } = self;
        let hits = sums * per;
        let (read, small, index) = (4 * hits * width, 4 * sums * width, 4 * hits);
        Ok(vec![
            self.case(device, "elementwise", 2 * read, |i| i.table.slice(0, 0, hits.min(rows)) + 1.0)?,
            self.case(device, "gather", 2 * read + index, |i| i.table.gather(i.indices))?,
            self.case(device, "weighted_gather", read + small + 2 * index, |i| {
                i.table.weighted_gather(i.indices, i.weights)
            })?,
            self.case(device, "gather_dot", read + small + 2 * index, |i| i.table.gather_dot(i.indices, i.vectors))?,
            self.case(device, "sort", 4 * index, |i| i.indices.reshape([hits]).sort_pairs(None).1)?,
            self.case(device, "sort, scatter_add", 4 * rows * width + small + 6 * index, |i| {
                let factors = Some(Factors { weights: i.weights.reshape([hits]), per });
                Rows { factors, ..Rows::new(i.indices.reshape([hits]), i.vectors, rows) }.dense()
            })?,
            self.case(device, "sort, sums of hits", small + 6 * index, |i| {
                let factors = Some(Factors { weights: i.weights.reshape([hits]), per });
                Rows { factors, ..Rows::new(i.indices.reshape([hits]), i.vectors, rows) }.square_sum()
            })?,
        ])
    }
}

#[derive(Clone, Copy)]
struct Inputs<'g> {
    table: Var<'g>,
    indices: Var<'g>,
    weights: Var<'g>,
    vectors: Var<'g>,
}

/// Seconds of a copy by all threads.
fn copy(from: &[f32], to: &mut [f32]) -> f64 {
    let start = Instant::now();
    let piece = from.len().div_ceil(4 * rayon::current_num_threads());
    to.par_chunks_mut(piece).zip(from.par_chunks(piece)).for_each(|(to, from)| to.copy_from_slice(from));
    start.elapsed().as_secs_f64()
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn measure(device: &Device, sizes: Sizes, rounds: usize) -> Result<()> {
    let Sizes { rows, width, sums, per } = sizes;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut floats = |n: usize| (0..n).map(|_| rng.random_range(-1f32..1.0)).collect::<Vec<f32>>();
    let table = floats(rows * width);
    let store = Store::new(device);
    store.set("weights", &Tensor::f32([sums, per], floats(sums * per))?)?;
    store.set("vectors", &Tensor::f32([sums, width], floats(sums * width))?)?;
    let indices = (0..sums * per).map(|_| rng.random_range(0..rows as u32)).collect();
    store.set("indices", &Tensor::u32([sums, per], indices)?)?;
    store.set("table", &Tensor::f32([rows, width], table.clone())?)?;
    let mut cases = sizes.cases(device)?;
    let from = &table[..table.len().min(sums * per * width)];
    let mut to = vec![0.0; from.len()];
    let mut copies = Vec::new();
    for round in 0..rounds + 1 {
        let copied = copy(from, &mut to);
        for case in &mut cases {
            let start = Instant::now();
            case.plan.run(&Feed::new().store(&store))?;
            case.plan.read_blocking("last")?;
            // The first round warms up.
            if round > 0 {
                case.times.push(start.elapsed().as_secs_f64());
            }
        }
        if round > 0 {
            copies.push(copied);
        }
    }
    let speed = 8e-9 * from.len() as f64 / median(&mut copies);
    println!("table [{rows}, {width}], {sums} sums of {per} rows; copy on the host: {speed:.2} GB/s read and written");
    println!("{:>20} {:>10} {:>8} {:>14}", "", "ms", "GB/s", "share of copy");
    for mut case in cases {
        let seconds = median(&mut case.times);
        let rate = 1e-9 * case.traffic as f64 / seconds;
        println!("{:>20} {:>10.2} {rate:>8.2} {:>12.0} %", case.name, 1e3 * seconds, 100.0 * rate / speed);
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = match &args.adapter {
        None => Device::cpu(),
        Some(name) => {
            let options = GpuOptions { adapter: Some(name.clone()), software: true, ..Default::default() };
            Device::gpu_blocking(options)?
        }
    };
    println!("device: {device}, {} threads on the host", rayon::current_num_threads());
    for (rows, width) in [(1 << 20, 64), (1 << 18, 256)] {
        measure(&device, Sizes { rows, width, sums: args.sums, per: args.per }, args.rounds)?;
    }
    Ok(())
}
