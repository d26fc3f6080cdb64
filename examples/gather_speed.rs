//! How close weighted sums of rows of a large table come to the speed of memory: GB/s of what must be read and written at
//! the least, beside two copies in the same process: of the table from its start, and of the same rows in the same order.
//! Rows are drawn at random from tables larger than a core's cache.
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
    /// MiB of the rows that are read
    #[arg(long, default_value_t = 64)]
    read: usize,
    /// MiB of the table; on a GPU no more than a binding holds
    #[arg(long, default_value_t = 128)]
    table: usize,
    /// Rows that are added up in a sum, as 4 heads of 32 slots do
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

/// Copies by all threads of the host.
struct Copies {
    table: Vec<f32>,
    indices: Vec<u32>,
    width: usize,
    to: Vec<f32>,
    in_order: Vec<f64>,
    rows: Vec<f64>,
}

/// Pieces of a copy.
const PIECES: usize = 256;

impl Copies {
    fn in_order(&mut self) -> f64 {
        let (start, piece) = (Instant::now(), self.to.len().div_ceil(PIECES));
        let from = self.table.par_chunks(piece);
        self.to.par_chunks_mut(piece).zip(from).for_each(|(to, from)| to.copy_from_slice(from));
        start.elapsed().as_secs_f64()
    }

    fn rows(&mut self) -> f64 {
        let (start, piece, width) = (Instant::now(), self.indices.len().div_ceil(PIECES), self.width);
        let to = self.to.par_chunks_mut(piece * width);
        to.zip(self.indices.par_chunks(piece)).for_each(|(to, indices)| {
            for (to, row) in to.chunks_mut(width).zip(indices) {
                to.copy_from_slice(&self.table[*row as usize * width..][..width]);
            }
        });
        start.elapsed().as_secs_f64()
    }
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
    let indices: Vec<u32> = (0..sums * per).map(|_| rng.random_range(0..rows as u32)).collect();
    store.set("indices", &Tensor::u32([sums, per], indices.clone())?)?;
    store.set("table", &Tensor::f32([rows, width], table.clone())?)?;
    let mut cases = sizes.cases(device)?;
    let to = vec![0.0; table.len().min(sums * per * width)];
    let mut copies = Copies { table, indices, width, to, in_order: Vec::new(), rows: Vec::new() };
    for round in 0..rounds + 1 {
        let copied = [copies.in_order(), copies.rows()];
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
            copies.in_order.push(copied[0]);
            copies.rows.push(copied[1]);
        }
    }
    let bytes = 8.0 * copies.to.len() as f64;
    let [in_order, by_rows] = [&mut copies.in_order, &mut copies.rows].map(|times| 1e-9 * bytes / median(times));
    println!("table [{rows}, {width}], {sums} sums of {per} rows");
    println!("copies on the host: in order {in_order:.2} GB/s read and written, by rows {by_rows:.2}");
    println!("{:>20} {:>10} {:>8} {:>18} {:>12}", "", "ms", "GB/s", "of copy in order", "by rows");
    for mut case in cases {
        let seconds = median(&mut case.times);
        let rate = 1e-9 * case.traffic as f64 / seconds;
        let [a, b] = [in_order, by_rows].map(|speed| 100.0 * rate / speed);
        println!("{:>20} {:>10.2} {rate:>8.2} {a:>16.0} % {b:>10.0} %", case.name, 1e3 * seconds);
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
    for width in [64, 256] {
        let rows = |mib: usize| (mib << 18) / width;
        let sums = rows(args.read) / args.per.max(1);
        measure(&device, Sizes { rows: rows(args.table), width, sums, per: args.per }, args.rounds)?;
    }
    Ok(())
}
