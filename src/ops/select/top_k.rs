//! The `k` largest entries of rows, in order.
//!
//! Entries are ordered as pairs (rank, index), where the rank is an integer that ascends while the value descends (see
//! `shaders/shared/order.wgsl`). No two pairs of a row are equal, so there is one right answer, whatever the order in
//! which a kernel finds them: results are the same bit for bit on every executor.
//!
//! Kernels: rows of up to 256 entries by counting, several a workgroup. Longer rows by a radix select of the k-th pair
//! (after Alabi et al. 2012, "Fast k-selection algorithms for graphics processors"; 11 bits a stage; counts are integers,
//! so atomics do not disturb them), by one workgroup a row or, where there are few and long rows, by several. Then only the
//! `k` chosen pairs are sorted: runs of 1,024 by a bitonic network (Batcher 1968), longer ones by merging. Where many of a
//! row are chosen it is sorted whole instead: short rows by one such network, long ones by a radix sort. Software drivers,
//! to which barriers are dear, get a row an invocation where that is little work.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.constant(Tensor::f32([1, 4], vec![3.0, 9.0, 3.0, 1.0])?);
//! let top = x.top_k(3);
//! let plan = Device::cpu().compile_blocking(&graph, &[("values", top.values), ("indices", top.indices)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("values")?.floats(), [9.0, 3.0, 3.0]);
//! assert_eq!(plan.read_blocking("indices")?.ints(), [1, 0, 2]); // of equal ones the first
//! # Ok(())
//! # }
//! ```

use super::top_k_cpu;
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp};
use crate::kernel;
use crate::kernels::{Buffer, CpuCall, DispatchBuilder, Kernel, Lower, Place};
use crate::ops::rows::zero;
use crate::ops::sort::{Pairs, sort_rows};
use crate::types::{DType, TensorType};
use encase::ShaderType;

/// A row an invocation.
pub static LANE: Kernel = kernel!("select/top_k_lane");
/// Rows of up to 256 entries.
pub static SMALL: Kernel = kernel!("select/top_k_small");
/// Radix select by one workgroup a row.
pub static ROW: Kernel = kernel!("select/top_k_row");
/// A stage of the radix select by several workgroups a row.
pub static DIGITS: Kernel = kernel!("select/top_k_digits");
/// Brings the chosen together.
pub static PLACE: Kernel = kernel!("select/top_k_place");
/// Sorts runs.
pub static SORT: Kernel = kernel!("select/top_k_sort");
/// Merges runs.
pub static MERGE: Kernel = kernel!("select/top_k_merge");
/// Takes the first of rows that were sorted whole.
pub static TAKE: Kernel = kernel!("select/top_k_take");

/// Invocations of a workgroup; entries that are ordered by counting.
const WIDTH: usize = 256;
/// Entries of a tile.
const TILE: usize = 8192;
/// Entries of a run that is sorted in workgroup memory.
const RUN: usize = 1024;
/// Bits of a stage, and its bins.
const BITS: u32 = 11;
const BINS: usize = 1 << BITS;
/// Stages that go through a rank.
const RANK_STAGES: u32 = 3;
/// With fewer rows than this, several workgroups share a long row.
const FEW_ROWS: usize = 64;

/// Longer rows are sorted whole by digits if more than one in `SHARE` is chosen: merging costs more there. On a software
/// driver, to which a dispatch is cheap, all that are not for [`SMALL`]; of those that a workgroup could sort, one in two.
const LONG: usize = 1 << 14;
const SHARE: usize = 4;

/// With this many rows a software driver gives a row to an invocation, where that means so many comparisons altogether or
/// so many of an entry. The invocation has the best of so many pieces.
const LANE_ROWS: usize = 8;
const LANE_WORK: usize = 1 << 15;
const LANE_TIMES: usize = 8;
const LANE_PIECES: usize = 128;
const LANE_WIDTH: usize = 8;

/// The largest entries of each row and their indices.
#[derive(Clone, Copy, Debug)]
pub struct TopK<'g> {
    /// f32 `[.., k]`, descending.
    pub values: Var<'g>,
    /// u32 `[.., k]`: where along the last axis each was.
    pub indices: Var<'g>,
}

/// Input 0: f32 `[.., n]`; input 1, if masked: u32 0/1 of the same shape.
#[derive(Clone, Debug)]
struct TopKOp {
    k: usize,
    masked: bool,
}

#[derive(ShaderType, Clone, Copy)]
struct Meta {
    rows: u32,
    n: u32,
    k: u32,
    tiles: u32,
    stage: u32,
    stages: u32,
    run: u32,
}

impl TopKOp {
    /// Starts a dispatch that looks at the rows.
    fn rows<'l, 'a>(&self, cx: &'l mut Lower<'a>, kernel: &'static Kernel) -> DispatchBuilder<'l, 'a> {
        let masked = f64::from(u8::from(self.masked));
        cx.dispatch(kernel).constant("MASKED", masked).input(0).input(usize::from(self.masked))
    }

    /// Finds the last entry that is chosen of each row, by several workgroups a row.
    fn select_tiled(&self, cx: &mut Lower<'_>, meta: Meta, bounds: Buffer) -> Result<()> {
        let rows = meta.rows as usize;
        let size = meta.stages as usize * rows * BINS;
        let counts = cx.temp(size);
        zero(cx, Place::Temp(counts), size)?;
        for stage in 0..=meta.stages {
            let tiles = if stage < meta.stages { meta.n.div_ceil(TILE as u32) } else { 1 };
            let d = self.rows(cx, &DIGITS).write(counts).write(bounds);
            d.uniform(&Meta { stage, tiles, ..meta }).workgroups(rows * tiles as usize)?;
        }
        Ok(())
    }

    /// Brings the chosen entries together, in any order.
    fn place(&self, cx: &mut Lower<'_>, meta: Meta, bounds: Buffer, to: Pairs) -> Result<()> {
        let rows = meta.rows as usize;
        let placed = cx.temp(rows.max(1));
        zero(cx, Place::Temp(placed), rows)?;
        let tiles = meta.n.div_ceil(TILE as u32);
        self.rows(cx, &PLACE)
            .constant("ALL", f64::from(u8::from(meta.k == meta.n)))
            .read(bounds)
            .write(placed)
            .write_to(to[0])
            .write_to(to[1])
            .uniform(&Meta { tiles, ..meta })
            .workgroups(rows * tiles as usize)
    }

    /// Whether sorting rows whole is less work than selecting first.
    fn is_whole(&self, n: usize, software: bool) -> bool {
        let short = n <= RUN;
        match software {
            true => self.k * if short { 2 } else { SHARE } > n,
            false => (n > LONG && self.k * SHARE > n) || (short && self.k > WIDTH && self.k < n),
        }
    }

    /// Sorts rows whole and takes the first entries of each.
    fn sort_whole(&self, cx: &mut Lower<'_>, meta: Meta, bounds: Buffer) -> Result<()> {
        let (rows, n, k) = (meta.rows as usize, meta.n as usize, meta.k as usize);
        let [ranks, indices, first, second] = [(); 4].map(|()| Place::Temp(cx.temp(rows * n)));
        let (all, to) = (Meta { k: meta.n, ..meta }, [first, second]);
        self.place(cx, all, bounds, [ranks, indices])?;
        if n <= RUN && !cx.caps.software {
            Self::sort_runs(cx, all, [ranks, indices], to, false)?;
        } else {
            // The sort makes the indices itself, in order.
            let spare = [Place::Temp(cx.temp(rows * n)), indices];
            sort_rows(cx, [rows, n], u32::MAX, ranks, spare, to)?;
        }
        cx.dispatch(&TAKE)
            .input(0)
            .read_from(to[0])
            .read_from(to[1])
            .output(0)
            .output(1)
            .uniform(&meta)
            .workgroups((rows * k).div_ceil(64))
    }

    /// Sorts runs of `meta.k` entries of each row; `last`: there is one run, and values are written in place of ranks.
    fn sort_runs(cx: &mut Lower<'_>, meta: Meta, from: Pairs, to: Pairs, last: bool) -> Result<()> {
        let k = meta.k as usize;
        let size = k.next_power_of_two().min(RUN);
        let tiles = k.div_ceil(size);
        cx.dispatch(&SORT)
            .input(0)
            .constant("SIZE", size as f64)
            .constant("LAST", f64::from(u8::from(last)))
            .read_from(from[0])
            .read_from(from[1])
            .write_to(to[0])
            .write_to(to[1])
            .uniform(&Meta { tiles: tiles as u32, ..meta })
            .workgroups(meta.rows as usize * tiles)
    }

    /// Sorts the chosen entries of each row from `from` into the outputs.
    fn sort(cx: &mut Lower<'_>, meta: Meta, from: Pairs) -> Result<()> {
        let (rows, k) = (meta.rows as usize, meta.k as usize);
        let outputs = [Place::Output(0), Place::Output(1)];
        let merges = k.div_ceil(RUN).next_power_of_two().trailing_zeros();
        let spare = if merges > 0 { [cx.temp(rows * k), cx.temp(rows * k)].map(Place::Temp) } else { outputs };
        // Buffers alternate; the last pass writes the outputs.
        let target = |pass: u32| match pass {
            p if p == merges => outputs,
            p if p % 2 == 0 => spare,
            _ => from,
        };
        Self::sort_runs(cx, meta, from, target(0), merges == 0)?;
        for pass in 1..=merges {
            let run = (RUN as u32) << (pass - 1);
            cx.dispatch(&MERGE)
                .input(0)
                .constant("LAST", f64::from(u8::from(pass == merges)))
                .read_from(target(pass - 1)[0])
                .read_from(target(pass - 1)[1])
                .write_to(target(pass)[0])
                .write_to(target(pass)[1])
                .uniform(&Meta { run, ..meta })
                .workgroups((rows * k).div_ceil(64))?;
        }
        Ok(())
    }
}

impl Op for TopKOp {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let x = &inputs[0];
        x.require(DType::F32, "convert with to_f32")?;
        let Some((n, outer)) = x.shape.split_last() else {
            return Refusal::shape("needs at least one dimension");
        };
        if self.k == 0 || self.k > *n {
            return Refusal::shape(format!("k = {}; expected 1 to {n}, the entries of a row", self.k));
        }
        if let Some(mask) = inputs.get(1) {
            mask.require(DType::U32, "a mask is u32 0/1; compare with ne(0.0)")?;
            if mask.shape != x.shape {
                return Refusal::shape(format!("the mask must have the shape {}; use expand", x.shape));
            }
        }
        let mut shape = outer.to_vec();
        shape.push(self.k);
        Ok(vec![TensorType::f32(shape.clone()), TensorType::u32(shape)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let (Some(g), x, indices) = (cx.cotangents[0], cx.inputs[0], cx.outputs[1]) else {
            return cx.none();
        };
        let g = match cx.inputs.get(1) {
            Some(mask) => mask.take_along(indices, -1).select(g, 0.0),
            None => g,
        };
        let mut grads = cx.none();
        grads[0] = Some(g.scatter_along_unique(indices, -1, x.dim(-1)).into());
        grads
    }

    #[cfg(feature = "cpu")]
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        top_k_cpu::run(call, self.k, self.masked);
    }

    #[cfg(feature = "oracle")]
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        top_k_cpu::run(call, self.k, self.masked);
    }

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let ((rows, n), k) = (cx.inputs[0].shape().rows(), self.k);
        let index_stages = (usize::BITS - (n - 1).leading_zeros()).div_ceil(BITS);
        let stages = RANK_STAGES + index_stages;
        let meta = Meta { rows: rows as u32, n: n as u32, k: k as u32, tiles: 1, stage: 0, stages, run: 0 };
        let piece = n.isqrt().max(n.div_ceil(LANE_PIECES));
        let lane = n * k <= LANE_WORK || k * (piece + n.div_ceil(piece)) <= LANE_TIMES * n;
        if cx.caps.software && rows >= LANE_ROWS && lane {
            let d = self.rows(cx, &LANE).output(0).output(1).uniform(&Meta { run: piece as u32, ..meta });
            return d.workgroups(rows.div_ceil(LANE_WIDTH));
        }
        if n <= WIDTH {
            let groups = rows.div_ceil(WIDTH / n);
            return self.rows(cx, &SMALL).output(0).output(1).uniform(&meta).workgroups(groups);
        }
        let finish = k <= WIDTH;
        let tiled = rows < FEW_ROWS && n > 2 * TILE;
        // Two bounds of three integers a row.
        let bounds = cx.temp(6 * rows.max(1));
        if self.is_whole(n, cx.caps.software) {
            return self.sort_whole(cx, meta, bounds);
        }
        if k < n && tiled {
            self.select_tiled(cx, meta, bounds)?;
        } else if k < n {
            let d = self.rows(cx, &ROW).constant("FINISH", f64::from(u8::from(finish)));
            d.write(bounds).output(0).output(1).uniform(&meta).workgroups(rows)?;
            if finish {
                return Ok(());
            }
        }
        let pairs = [cx.temp(rows * k), cx.temp(rows * k)].map(Place::Temp);
        self.place(cx, meta, bounds, pairs)?;
        Self::sort(cx, meta, pairs)
    }
}

impl<'g> Var<'g> {
    /// The `k` largest entries along the last axis, `[.., n] -> [.., k]`: values (f32) in descending order and their
    /// indices (u32). Equal values come by ascending index (0 and -0 are equal), NaN after all numbers.
    ///
    /// 1 <= `k` <= n, else the graph keeps an [`Error::Shape`](crate::Error::Shape). The gradient of the values goes to
    /// the chosen entries; the others get 0.
    #[track_caller]
    pub fn top_k(self, k: usize) -> TopK<'g> {
        top_k(TopKOp { k, masked: false }, &[self])
    }

    /// [`top_k`](Self::top_k) among the entries that `mask` (u32 0/1, of the same shape) marks with 1. The others come
    /// after all of those, NaN included, by ascending index: their value is `f32::MIN`, and they get no gradient.
    #[track_caller]
    pub fn top_k_masked(self, k: usize, mask: Var<'g>) -> TopK<'g> {
        top_k(TopKOp { k, masked: true }, &[self, mask])
    }
}

#[track_caller]
fn top_k<'g>(op: TopKOp, inputs: &[Var<'g>]) -> TopK<'g> {
    let out = inputs[0].graph().apply(op, inputs);
    TopK { values: out[0], indices: out[1] }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(&[usize], usize); 22] = [
        (&[1], 1),
        (&[5], 3),
        (&[0, 3], 2),
        (&[7, 5], 5),
        (&[2, 3, 31], 1),
        (&[66_000, 3], 2),
        (&[9, 100], 17),
        (&[9, 3_001], 7),
        (&[13, 1_000], 50),
        (&[3, 255], 32),
        (&[2, 256], 256),
        (&[3, 257], 1),
        (&[2, 257], 257),
        (&[5, 1_000], 32),
        (&[2, 1_025], 300),
        (&[3, 2_500], 1_500),
        (&[2, 3_000], 3_000),
        (&[70, 700], 256),
        (&[2, 20_003], 7),
        (&[20_011], 2_100),
        (&[70_001], 70_001),
        (&[3, 16_385], 257),
    ];
    fn both(t: TopK<'_>) -> Vec<Var<'_>> {
        vec![t.values, t.indices]
    }
    let mut all = Vec::new();
    for (shape, k) in shapes {
        all.push(Sample::new(format!("top_k {k} of {shape:?}"), [shape], move |_, x| both(x[0].top_k(k))));
        let ties = Sample::new(format!("top_k {k} of ties {shape:?}"), [shape], move |_, x| {
            let mut all = both(x[0].floor().top_k(k));
            all.extend(both((x[0] * 0.0).top_k(k)));
            all
        });
        all.push(ties.no_gradient());
        let masked = Sample::new(format!("top_k {k} of masked {shape:?}"), [shape], move |_, x| {
            let t = x[0].top_k_masked(k, x[1]);
            // Beside f32::MIN no difference would count.
            vec![t.values.maximum(-9.0), t.indices]
        });
        all.push(masked.below(shape, 2));
    }
    let none = Sample::new("top_k of rows without an entry", [&[3, 300]], |g, x| {
        both(x[0].top_k_masked(7, g.full_u32([3, 300], 0)))
    });
    all.push(none);
    let twice = Sample::new("top_k twice", [&[4, 9]], |_, x| {
        let t = x[0].top_k(4);
        let u = t.values.tanh().top_k(2);
        vec![u.values * t.values.sum(1), x[0].tanh().take_along(t.indices, 1)]
    });
    all.push(twice);
    all
}
