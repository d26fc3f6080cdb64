//! Sums of hits by row: scattering into a table, and uniting the rows of a sparse gradient. Hits are sorted stably by
//! row, then each run is added up in the order of positions, so that results are the same bit for bit at every run.

use crate::error::{Refusal, Result, Where};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, Place, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// Partial sums of long runs.
pub static RUN_PIECES: Kernel = kernel!("memory/run_pieces");
/// Sums of runs.
pub static RUN_SUMS: Kernel = kernel!("memory/run_sums");
/// First hits of runs.
pub static RUN_HEADS: Kernel = kernel!("memory/run_heads");
/// Zeros.
pub static ZERO: Kernel = kernel!("memory/zero");

const WIDTH: usize = 64;
/// Hits that are added one after the other; a longer run is added up from pieces of this length, counted from its start.
const PIECE: usize = 128;

/// Sums of the values (input 0, `[count, width]`) of hits by row. Inputs 1 to 3, u32 `[count]`: the rows that were hit,
/// the same sorted (with `rows` for those that do not exist), and the positions of the sorted ones.
#[derive(Clone, Debug)]
struct SumRuns {
    rows: usize,
    /// Into a table `[rows, width]`, or one row a hit: the sum at the first hit of each run, zeros elsewhere.
    table: bool,
}

/// The sorted rows at the first hit of each run, `rows` elsewhere.
#[derive(Clone, Debug)]
struct RunHeads {
    rows: usize,
}

#[derive(ShaderType)]
struct Meta {
    n: u32,
    rows: u32,
    width: u32,
}

#[derive(ShaderType)]
struct Count {
    n: u32,
    rows: u32,
}

/// Adds the hits `keys[start..]` of one row to `out`, in the order of the kernels.
fn sum_run<T: Real>(values: &[T], keys: &[u32], positions: &[u32], start: usize, out: &mut [T]) {
    let width = out.len();
    let run = keys[start..].iter().take_while(|k| **k == keys[start]).count();
    out.fill(T::ZERO);
    let mut piece = vec![T::ZERO; width];
    for (p, hits) in positions[start..start + run].chunks(PIECE).enumerate() {
        let into = if p == 0 { &mut *out } else { &mut piece[..] };
        into.fill(T::ZERO);
        for &hit in hits {
            let row = &values[hit as usize * width..(hit as usize + 1) * width];
            into.iter_mut().zip(row).for_each(|(o, v)| *o += *v);
        }
        if p > 0 {
            out.iter_mut().zip(&piece).for_each(|(o, v)| *o += *v);
        }
    }
}

impl SumRuns {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let width = call.outputs[0].shape[1];
        let (values, keys, positions) = (call.f(0), call.u(2), call.u(3));
        let (rows, table) = (self.rows as u32, self.table);
        let mean = keys.len() / if table { self.rows.max(1) } else { 1 };
        par::rows(call.out(0), width, (mean + 4) * width, |i, out| {
            let start = if table { keys.partition_point(|k| (*k as usize) < i) } else { i };
            let hit = match keys.get(start) {
                Some(key) if table => *key as usize == i,
                Some(key) => *key < rows && (i == 0 || keys[i - 1] != *key),
                None => false,
            };
            if hit {
                sum_run(values, keys, positions, start, out);
            } else {
                out.fill(T::ZERO);
            }
        });
    }
}

fn check_rows(rows: usize) -> Result<(), Refusal> {
    if rows > u32::MAX as usize {
        return Refusal::shape(format!("a table of {rows} rows; indices are u32"));
    }
    Ok(())
}

impl Op for SumRuns {
    fn name(&self) -> &'static str {
        if self.table { "scatter_add" } else { "sum_runs" }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let values = &inputs[0];
        values.require(DType::F32, "only floats are added up; convert with to_f32")?;
        check_rows(self.rows)?;
        if values.shape.len() != 2 || inputs[1].shape[..] != values.shape[..1] {
            return Refusal::shape("expected values [count, width] and indices [count]");
        }
        let count = if self.table { self.rows } else { values.shape[0] };
        Ok(vec![TensorType::f32([count, values.shape[1]])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        // A sum at the first hit of a run passes its cotangent to every hit of the run: through a table.
        let table = if self.table {
            g
        } else {
            let heads = cx.graph.apply(RunHeads { rows: self.rows }, &cx.inputs[2..3]);
            g.scatter_add(heads[0], self.rows)
        };
        vec![Some(table.gather(cx.inputs[1]).into()), None, None, None]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let [n, width] = [cx.inputs[0].shape()[0], cx.inputs[0].shape()[1]];
        let meta = Meta { n: n as u32, rows: self.rows as u32, width: width as u32 };
        if self.table {
            zero(cx, Place::Output(0), cx.outputs[0].numel())?;
        }
        let pieces = if n > PIECE { n.div_ceil(PIECE) } else { 0 };
        let partials = cx.temp((pieces * width).max(1));
        cx.dispatch(&RUN_PIECES)
            .input(0)
            .input(2)
            .input(3)
            .write(partials)
            .uniform(&meta)
            .workgroups((pieces * width).div_ceil(WIDTH))?;
        cx.dispatch(&RUN_SUMS)
            .constant("TABLE", f64::from(u8::from(self.table)))
            .input(0)
            .input(2)
            .input(3)
            .read(partials)
            .output(0)
            .uniform(&meta)
            .workgroups((n * width).div_ceil(WIDTH))
    }
}

#[derive(ShaderType)]
struct Length {
    n: u32,
}

/// Fills a buffer of `size` elements with zeros.
pub(crate) fn zero(cx: &mut Lower<'_>, place: Place, size: usize) -> Result<()> {
    cx.dispatch(&ZERO).write_to(place).uniform(&Length { n: size as u32 }).workgroups(size.div_ceil(WIDTH))
}

impl RunHeads {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let keys = call.u(0);
        let rows = self.rows as u32;
        for (i, out) in call.out_u(0).iter_mut().enumerate() {
            let first = i == 0 || keys[i - 1] != keys[i];
            *out = if first { keys[i].min(rows) } else { rows };
        }
    }
}

impl Op for RunHeads {
    fn name(&self) -> &'static str {
        "run_heads"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        check_rows(self.rows)?;
        Ok(vec![inputs[0].clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.inputs[0].numel();
        let meta = Count { n: n as u32, rows: self.rows as u32 };
        cx.dispatch(&RUN_HEADS).input(0).output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

/// Sorts hits by row: sorted rows, with `rows` for those that do not exist, and positions.
#[track_caller]
fn sort_hits<'g>(indices: Var<'g>, rows: usize) -> (Var<'g>, Var<'g>) {
    indices.sort_pairs(Some(u32::try_from(rows).unwrap_or(u32::MAX)))
}

impl<'g> Var<'g> {
    /// Sums values f32 `[count, width]` into a table `[rows, width]` at `indices` (u32 `[count]`); rows that are not hit
    /// are 0, and an index that is not below `rows` is dropped.
    ///
    /// Hits of a row are added in the order of their positions, long runs in pieces of 128 hits: the result is the same
    /// bit for bit at every run. The cost grows with the hits, but for zeroing the table. Gradient: [`gather`](Self::gather).
    #[track_caller]
    pub fn scatter_add(self, indices: Var<'g>, rows: usize) -> Var<'g> {
        let (keys, positions) = sort_hits(indices, rows);
        self.op(SumRuns { rows, table: true }, &[indices, keys, positions])
    }
}

impl<'g> Rows<'g> {
    /// The same gradient with no row twice: `indices` ascend where they name a row, and are [`rows`](Self::rows) (no
    /// row) at all but the first of several hits; `values` there are 0. As many entries as before.
    #[track_caller]
    pub fn unite(&self) -> Rows<'g> {
        let rows = self.rows;
        let (keys, positions) = sort_hits(self.indices, rows);
        let graph = self.indices.graph();
        let heads = graph.apply_at(std::sync::Arc::new(RunHeads { rows }), &[keys], Where::caller())[0];
        let sums = SumRuns { rows, table: false };
        Rows { indices: heads, values: self.values.op(sums, &[self.indices, keys, positions]), rows }
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(usize, usize, usize, u32); 12] = [
        (1, 1, 1, 1),
        (7, 3, 5, 7),
        (0, 3, 4, 1),
        (5, 3, 0, 2),
        (5, 0, 3, 3),
        (127, 1, 2, 1),
        (129, 2, 1, 1),
        (300, 67, 9, 12),
        (5_003, 3, 4, 5),
        (1_000, 1, 66_000, 66_000),
        (70_001, 1, 3, 4),
        (70_001, 2, 40_000, 40_000),
    ];
    let mut all: Vec<Sample> = shapes
        .into_iter()
        .map(|(count, width, rows, below)| {
            let name = format!("scatter_add [{count}, {width}] into {rows}");
            Sample::new(name, [&[count, width]], move |_, x| vec![x[0].scatter_add(x[1], rows)]).below(&[count], below)
        })
        .collect();
    for (count, width, rows, below) in [(0, 2, 3, 1), (9, 3, 4, 5), (700, 5, 3, 3), (5_003, 1, 900, 1_000)] {
        let name = format!("unite [{count}, {width}] of {rows}");
        let sample = Sample::new(name, [&[count, width]], move |_, x| {
            let (values, indices) = (x[0], x[1]);
            let united = Rows { indices, values, rows }.unite();
            vec![united.indices, united.values, united.dense()]
        });
        all.push(sample.below(&[count], below));
    }
    all
}
