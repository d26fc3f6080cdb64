//! Hits of the rows of a table, sorted by row, and sums over the runs of equal rows: what scattering, the norm of a sparse
//! gradient and the optimizers of touched rows share.
//!
//! Hits are sorted stably, then each run is added up in the order of positions, in pieces of 128 hits: results are the
//! same bit for bit at every run. The row that a hit adds is read where it stands and multiplied by the hit's weight on
//! the way, so that rows `[hits, width]` need not stand in memory.

use crate::error::{Refusal, Result, Where};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::dot;
use crate::kernels::{CpuCall, DispatchBuilder, Kernel, Lower, par};
use crate::ops::optim::sum_pieces;
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;
use std::ops::Range;
use std::sync::Arc;

/// Ends of runs.
pub static RUN_ENDS: Kernel = kernel!("memory/run_ends");
/// Partial sums of long runs.
pub static RUN_PIECES: Kernel = kernel!("memory/run_pieces");
/// Squares of the sums of runs.
pub static RUN_SQUARES: Kernel = kernel!("memory/run_squares");

const WIDTH: usize = 64;
/// Hits that are added one after the other; a longer run is added up from pieces of this length, counted from its start.
const PIECE: usize = 128;
/// Elements whose squares a workgroup adds up.
const SQUARES: usize = 4096;
/// Hits whose squares are added up in one go on the CPU.
const CPU_SQUARES: usize = 64;

/// How sorted hits find what they add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunShape {
    /// Rows of the table.
    pub rows: usize,
    /// Hits that a row of values serves.
    pub per: usize,
    /// Whether a hit has a weight; if not, the values stand in for the weights.
    pub weighted: bool,
}

/// Sorted hits, as inputs of operations: values `[count, width]`, weights `[hits]`, positions, rows (keys), ends and
/// partial sums.
pub(crate) struct Runs<'g> {
    pub shape: RunShape,
    pub inputs: [Var<'g>; RUNS],
}

/// Number of inputs of sorted hits.
pub(crate) const RUNS: usize = 6;
/// Which of them are rows and ends.
pub(crate) const KEYS: usize = 3;
pub(crate) const ENDS: usize = 4;

/// As the kernels see it.
#[derive(ShaderType, Clone, Copy)]
pub(crate) struct RunMeta {
    n: u32,
    width: u32,
    per: u32,
    rows: u32,
}

impl RunMeta {
    /// With widths in so many elements.
    pub fn narrowed(self, each: usize) -> RunMeta {
        RunMeta { width: self.width / each as u32, ..self }
    }
}

impl<'g> Runs<'g> {
    /// Sorts the hits of a sparse gradient.
    #[track_caller]
    pub fn new(hits: &Rows<'g>) -> Runs<'g> {
        let (graph, location, values) = (hits.indices.graph(), Where::caller(), hits.values);
        let (keys, positions) = hits.indices.sort_pairs(Some(u32::try_from(hits.rows).unwrap_or(u32::MAX)));
        let (weighted, per) = (hits.factors.is_some(), hits.factors.map_or(1, |f| f.per));
        let weights = hits.factors.map_or(values, |f| f.weights);
        let shape = RunShape { rows: hits.rows, per, weighted };
        let ends = graph.apply_at(Arc::new(RunEnds { rows: hits.rows }), &[keys], location)[0];
        let pieces = graph.apply_at(Arc::new(RunPieces(shape)), &[values, weights, positions, keys], location)[0];
        Runs { shape, inputs: [values, weights, positions, keys, ends, pieces] }
    }

    /// The same for rows `held` of the table, counted from the first of them: the keys of all others name no row.
    pub fn held(mut self, held: Range<usize>) -> Runs<'g> {
        self.shape.rows = held.len();
        if held.start > 0 {
            // Wraps for rows before.
            self.inputs[KEYS] = self.inputs[KEYS] - held.start as u32;
        }
        self
    }
}

impl RunShape {
    /// Refuses values, weights, positions and what else goes with them that do not belong together; the width of rows.
    pub fn check(&self, inputs: &[TensorType]) -> Result<usize, Refusal> {
        let [values, weights, hits @ ..] = inputs else {
            return Refusal::shape("expected values, weights and sorted hits");
        };
        values.require(DType::F32, "only floats are added up; convert with to_f32")?;
        weights.require(DType::F32, "weights are floats; convert with to_f32")?;
        if self.rows > u32::MAX as usize {
            return Refusal::shape(format!("a table of {} rows; indices are u32", self.rows));
        }
        let &[count, width] = &values.shape[..] else {
            return Refusal::shape("expected values [count, width]");
        };
        let expected = TensorType::u32([count.saturating_mul(self.per)]);
        if hits.iter().any(|h| h.dtype == DType::U32 && *h != expected) {
            return Refusal::shape(format!("expected one index for each value: {expected}"));
        }
        if self.weighted && weights.shape != expected.shape {
            return Refusal::shape(format!("expected one weight for each hit: {}", expected.shape));
        }
        Ok(width)
    }

    fn meta(&self, cx: &Lower<'_>, first: usize) -> RunMeta {
        let [hits, values] = [cx.inputs[first + 2].numel(), cx.inputs[first].shape()[1]];
        RunMeta { n: hits as u32, width: values as u32, per: self.per as u32, rows: self.rows as u32 }
    }

    /// Hits times width.
    pub fn elements(cx: &Lower<'_>, first: usize) -> usize {
        cx.inputs[first + 2].numel() * cx.inputs[first].shape()[1]
    }

    /// Starts a dispatch that adds up runs; the sorted hits are the inputs from `first` on. Binds values, weights,
    /// positions, and partial sums if they exist already.
    pub fn dispatch<'l, 'a>(
        &self,
        cx: &'l mut Lower<'a>,
        kernel: &'static Kernel,
        first: usize,
        partials: bool,
    ) -> (DispatchBuilder<'l, 'a>, RunMeta) {
        let meta = self.meta(cx, first);
        let d = cx.dispatch(kernel).constant("WEIGHTED", f64::from(u8::from(self.weighted)));
        let d = d.input(first).input(first + 1).input(first + 2);
        (if partials { d.input(first + 5) } else { d }, meta)
    }

    /// The sorted hits among the inputs from `first` on.
    pub fn view<'a, T: Real>(&self, call: &CpuCall<'a, T>, first: usize) -> CpuRuns<'a, T> {
        CpuRuns {
            per: self.per,
            width: call.inputs[first].shape[1],
            values: call.f(first),
            weights: self.weighted.then(|| call.f(first + 1)),
            positions: call.u(first + 2),
            keys: call.u(first + KEYS),
            ends: call.inputs.get(first + ENDS).map_or(&[], |_| call.u(first + ENDS)),
            partials: call.inputs.get(first + 5).map_or(&[], |_| call.f(first + 5)),
        }
    }
}

/// Sorted hits on the CPU.
pub(crate) struct CpuRuns<'a, T> {
    per: usize,
    width: usize,
    values: &'a [T],
    weights: Option<&'a [T]>,
    positions: &'a [u32],
    /// Row of each hit.
    pub keys: &'a [u32],
    /// One past the last hit of the run that each hit starts, 0 if it starts none.
    pub ends: &'a [u32],
    partials: &'a [T],
}

impl<T: Real> CpuRuns<'_, T> {
    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Sum of hits one after the other.
    #[inline(always)]
    fn piece(&self, hits: std::ops::Range<usize>, out: &mut [T]) {
        out.fill(T::ZERO);
        for &hit in &self.positions[hits] {
            let (hit, width) = (hit as usize, self.width);
            let from = hit / self.per * width;
            let row = &self.values[from..from + width];
            match self.weights {
                None => out.iter_mut().zip(row).for_each(|(o, v)| *o += *v),
                Some(weights) => {
                    let weight = weights[hit];
                    out.iter_mut().zip(row).for_each(|(o, v)| *o += weight * *v);
                }
            }
        }
    }

    /// Sum of the run that `hit` starts.
    #[inline(always)]
    pub fn sum(&self, hit: usize, out: &mut [T]) {
        let end = self.ends[hit] as usize;
        self.piece(hit..end.min(hit + PIECE), out);
        for start in (hit + PIECE..end).step_by(PIECE) {
            let partial = &self.partials[start / PIECE * self.width..][..self.width];
            out.iter_mut().zip(partial).for_each(|(o, v)| *o += *v);
        }
    }
}

/// For each sorted hit (input: rows, u32 `[hits]`) one past the last of its run if it is the first of one and its row exists,
/// else 0.
#[derive(Clone, Debug)]
struct RunEnds {
    rows: usize,
}

#[derive(ShaderType)]
struct Count {
    n: u32,
    rows: u32,
}

impl RunEnds {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let keys = call.u(0);
        let out = call.out_u(0);
        out.fill(0);
        let mut start = 0;
        for run in keys.chunk_by(|a, b| a == b) {
            if (run[0] as usize) < self.rows {
                out[start] = (start + run.len()) as u32;
            }
            start += run.len();
        }
    }
}

impl Op for RunEnds {
    fn name(&self) -> &'static str {
        "run_ends"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![inputs[0].clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.inputs[0].numel();
        let meta = Count { n: n as u32, rows: self.rows as u32 };
        cx.dispatch(&RUN_ENDS).input(0).output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

/// Sums of the pieces of long runs but their first: of the one that starts among the sorted hits q 128 to (q + 1) 128, in
/// row q; 0 if none does. Inputs: values, weights, positions, keys. Operations that use it give the whole gradient.
#[derive(Clone, Debug)]
struct RunPieces(RunShape);

impl RunPieces {
    fn pieces(hits: usize) -> usize {
        if hits > PIECE { hits.div_ceil(PIECE) } else { 0 }
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let runs = self.0.view(call, 0);
        let (keys, rows) = (runs.keys, self.0.rows);
        par::rows(
            call.out(0),
            runs.width,
            PIECE * runs.width,
            #[inline(always)]
            |q, out| {
                let hit = q * PIECE;
                let key = keys[hit];
                let low = keys[..hit].partition_point(|k| *k < key);
                let start = low + (hit - low).next_multiple_of(PIECE);
                if (key as usize) < rows && start > low && keys.get(start) == Some(&key) {
                    let end = keys.len().min(start + PIECE);
                    runs.piece(start..start + keys[start..end].partition_point(|k| *k == key), out);
                } else {
                    out.fill(T::ZERO);
                }
            },
        );
    }
}

impl Op for RunPieces {
    fn name(&self) -> &'static str {
        "run_pieces"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let width = self.0.check(inputs)?;
        Ok(vec![TensorType::f32([Self::pieces(inputs[2].numel()), width])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.outputs[0].numel();
        let (d, meta) = self.0.dispatch(cx, &RUN_PIECES, 0, false);
        d.input(KEYS).output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

/// Sum of the squares of the sums of all runs. Inputs: the sorted hits.
#[derive(Clone, Debug)]
struct RunSquares(RunShape);

#[derive(ShaderType)]
struct SquaresMeta {
    runs: RunMeta,
    piece: u32,
    pieces: u32,
}

impl RunSquares {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let runs = self.0.view(call, 0);
        let width = runs.width;
        let mut partial = vec![T::ZERO; runs.ends.len().div_ceil(CPU_SQUARES)];
        par::rows(
            &mut partial,
            1,
            CPU_SQUARES * width,
            #[inline(always)]
            |i, y| {
                let mut sum = vec![T::ZERO; width];
                let hits = i * CPU_SQUARES..runs.ends.len().min((i + 1) * CPU_SQUARES);
                for hit in hits.filter(|hit| runs.ends[*hit] > 0) {
                    runs.sum(hit, &mut sum);
                    y[0] += dot(&sum, &sum);
                }
            },
        );
        call.out(0).fill(partial.into_iter().sum());
    }
}

impl Op for RunSquares {
    fn name(&self) -> &'static str {
        "run_squares"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        self.0.check(inputs)?;
        Ok(vec![TensorType::f32([])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let pieces = RunShape::elements(cx, 0).div_ceil(SQUARES).max(1);
        let partial = cx.temp(pieces);
        let (d, runs) = self.0.dispatch(cx, &RUN_SQUARES, 0, true);
        let d = d.input(ENDS).write(partial);
        d.uniform(&SquaresMeta { runs, piece: SQUARES as u32, pieces: pieces as u32 }).workgroups(pieces)?;
        sum_pieces(cx, partial, pieces)
    }
}

impl<'g> Rows<'g> {
    /// Sum of the squares of the whole table, a scalar: hits of one row are added up first. Costs what the hits cost; no
    /// table and no row per hit stands in memory. No gradient.
    #[track_caller]
    pub fn square_sum(&self) -> Var<'g> {
        let runs = Runs::new(self);
        self.indices.graph().apply(RunSquares(runs.shape), &runs.inputs)[0]
    }
}
