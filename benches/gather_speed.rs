//! How close weighted sums of rows of a large table come to the speed of memory: GB/s of what must be read and written at
//! the least, as shares of two yardsticks on the same device in the same process: a plain copy, and reading the same rows in
//! the same random order without arithmetic (on the CPU every row is copied onto the place of its sum; in WGSL the bits of a
//! sum's rows are or-ed, since a load without use is none). Rows are drawn at random from tables larger than a core's cache.
//!
//! `cargo bench --bench gather_speed`, or with `-- --adapter NAME` on a GPU adapter by part of its name. Measured
//! one after the other, again and again, so that other jobs slow all of them down alike; medians.

use clap::Parser;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::time::Instant;
use wgrad::error::Refusal;
use wgrad::graph::{Cotangent, Factors, Op, Rows, Vjp};
use wgrad::kernels::{CpuCall, Lower};
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

/// A yardstick: f32 `[n]`, the start of a table, or what is read of its rows instead of their sums.
#[derive(Clone, Copy, Debug)]
enum Yardstick {
    Copy(usize),
    Rows(Sizes),
}

/// Copies four words an invocation.
const COPY: &str = "
@group(0) @binding(0) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> output: array<vec4<u32>>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) wn: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * wn.x) * 64u + lid;
    output[i] = table[i];
}";

/// Reads the same words of a sum's rows, those of four rows at a time.
const ROWS: &str = "
override QUADS: u32 = 1u;
override WORDS: u32 = 64u;
override PER: u32 = 128u;
override SUMS: u32 = 1u;
@group(0) @binding(0) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> indices: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) wn: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = (wid.x + wid.y * wn.x) * 64u + lid;
    let chunks = WORDS / 4u / QUADS;
    let sum = i / chunks;
    if (sum >= SUMS) {
        return;
    }
    var total = array<vec4<u32>, 8>();
    for (var j = 0u; j < PER / 4u; j++) {
        let at = indices[sum * (PER / 4u) + j] * (WORDS / 4u) + i % chunks * QUADS;
        for (var q = 0u; q < QUADS; q++) {
            total[q] |= table[at.x + q] | table[at.y + q] | table[at.z + q] | table[at.w + q];
        }
    }
    for (var q = 0u; q < QUADS; q++) {
        output[i * QUADS + q] = total[q];
    }
}";

impl Yardstick {
    fn cpu<T: Copy + Send + Sync>(self, call: &mut CpuCall<'_, T>) {
        let (table, indices) = (call.f(0), call.u(1));
        match self {
            Yardstick::Copy(n) => {
                let (from, to) = (table.par_chunks(n.div_ceil(PIECES)), call.out(0).par_chunks_mut(n.div_ceil(PIECES)));
                to.zip(from).for_each(|(to, from)| to.copy_from_slice(from));
            }
            Yardstick::Rows(Sizes { width, per, .. }) => {
                call.out(0).par_chunks_mut(width).zip(indices.par_chunks(per)).for_each(|(to, indices)| {
                    indices.iter().for_each(|row| to.copy_from_slice(&table[*row as usize * width..][..width]));
                });
            }
        }
    }
}

impl Op for Yardstick {
    fn name(&self) -> &'static str {
        "yardstick"
    }

    fn infer(&self, _: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![match *self {
            Yardstick::Copy(n) => TensorType::f32([n]),
            Yardstick::Rows(Sizes { sums, width, .. }) => TensorType::f32([sums, width]),
        }])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        self.cpu(call);
    }

    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        self.cpu(call);
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        match *self {
            Yardstick::Copy(n) => cx.generated("copy", COPY).input(0).output(0).workgroups(n / 256),
            Yardstick::Rows(Sizes { width, sums, per, .. }) => {
                let quads = if cx.caps.software { 8 } else { 1 };
                let d = cx.generated("rows", ROWS).constant("QUADS", quads as f64).constant("WORDS", width as f64);
                let d = d.constant("PER", per as f64).constant("SUMS", sums as f64).input(0).input(1).output(0);
                d.workgroups((sums * width / 4 / quads).div_ceil(64))
            }
        }
    }
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
#[derive(Clone, Copy, Debug)]
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
            self.case(device, "copy", 2 * read, |i| i.yardstick(Yardstick::Copy((hits * width).min(rows * width))))?,
            self.case(device, "rows, no arithmetic", read + small + index, |i| i.yardstick(Yardstick::Rows(self)))?,
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

impl<'g> Inputs<'g> {
    fn yardstick(self, yardstick: Yardstick) -> Var<'g> {
        self.table.graph().apply(yardstick, &[self.table, self.indices])[0]
    }
}

/// Pieces of a copy.
const PIECES: usize = 256;

/// Seconds that the host takes to copy so much of a table.
fn copied(table: &[f32], to: &mut [f32]) -> f64 {
    let (start, piece) = (Instant::now(), to.len().div_ceil(PIECES));
    to.par_chunks_mut(piece).zip(table.par_chunks(piece)).for_each(|(to, from)| to.copy_from_slice(from));
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
    let indices: Vec<u32> = (0..sums * per).map(|_| rng.random_range(0..rows as u32)).collect();
    store.set("indices", &Tensor::u32([sums, per], indices)?)?;
    store.set("table", &Tensor::f32([rows, width], table.clone())?)?;
    let mut cases = sizes.cases(device)?;
    let mut to = vec![0.0; table.len().min(sums * per * width)];
    let mut host = Vec::new();
    for round in 0..rounds + 1 {
        let seconds = copied(&table, &mut to);
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
            host.push(seconds);
        }
    }
    println!("table [{rows}, {width}], {sums} sums of {per} rows");
    println!("the host copies {:.2} GB/s, read and written", 8e-9 * to.len() as f64 / median(&mut host));
    println!("{:>20} {:>10} {:>8} {:>12} {:>12}", "", "ms", "GB/s", "of the copy", "of the rows");
    let measured: Vec<(&str, f64, f64)> = cases
        .iter_mut()
        .map(|case| {
            let seconds = median(&mut case.times);
            (case.name, seconds, 1e-9 * case.traffic as f64 / seconds)
        })
        .collect();
    for (name, seconds, rate) in &measured {
        let share = |i: usize| 100.0 * rate / measured[i].2;
        println!("{name:>20} {:>10.2} {rate:>8.2} {:>10.0} % {:>10.0} %", 1e3 * seconds, share(0), share(1));
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
        // The yardsticks take whole fours.
        let per = args.per.next_multiple_of(4).max(4);
        let sums = rows(args.read) / per;
        measure(&device, Sizes { rows: rows(args.table), width, sums, per }, args.rounds)?;
    }
    Ok(())
}
