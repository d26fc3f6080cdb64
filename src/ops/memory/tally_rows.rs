//! Running counts by row: how the slots of a memory are used.
//!
//! ```
//! use wgrad::graph::Rows;
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let table = graph.constant(Tensor::f32([2, 3], vec![0.0; 6])?);
//! let slots = graph.constant(Tensor::u32([3], vec![1, 1, 0])?);
//! let hits = Rows { indices: slots, values: graph.full([3, 1], 0.5), rows: 2, factors: None };
//! let plan = Device::cpu().compile_blocking(&graph, &[("table", table.tally_rows(&hits))])?;
//! plan.run(&Feed::new())?;
//! // For each row: the sum of what hit it, how many hits, and whether any.
//! assert_eq!(plan.read_blocking("table")?.floats(), [0.5, 1.0, 1.0, 1.0, 2.0, 1.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::ops::runs::{ENDS, KEYS, RunShape, Runs};
use crate::types::{Real, TensorType};

/// One column of a hit an invocation.
pub static TALLY_ROWS: Kernel = kernel!("memory/tally_rows");

const WIDTH: usize = 64;
/// Columns beside the sums.
const COUNTS: usize = 2;

/// Inputs: table f32 `[rows, width + 2]`, sorted hits of width `width`. Updates the table in place.
#[derive(Clone, Debug)]
struct TallyRows(RunShape);

impl TallyRows {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let runs = self.0.view(call, 1);
        let width = runs.width();
        par::picked(
            [call.take(0)],
            width + COUNTS,
            runs.keys,
            #[inline(always)]
            |hit, [row]| {
                let end = runs.ends[hit] as usize;
                if end > 0 {
                    let mut sum = vec![T::ZERO; width];
                    runs.sum(hit, &mut sum);
                    sum.extend([T::of((end - hit) as f64), T::ONE]);
                    row.iter_mut().zip(sum).for_each(|(r, v)| *r += v);
                }
            },
        );
    }
}

impl Op for TallyRows {
    fn name(&self) -> &'static str {
        "tally_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let [table, hits @ ..] = inputs else {
            return Refusal::shape("expected a table and sorted hits");
        };
        let expected = TensorType::f32([self.0.rows, self.0.check(hits)? + COUNTS]);
        if *table != expected {
            return Refusal::shape(format!("expected a table {expected}, got {table}"));
        }
        Ok(vec![table.clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (hits, width) = (cx.inputs[1 + KEYS].numel(), cx.inputs[1].shape()[1]);
        let (d, meta) = self.0.dispatch(cx, &TALLY_ROWS, 1, true);
        let d = d.input(1 + KEYS).input(1 + ENDS).output(0).uniform(&meta);
        d.workgroups((hits * (width + COUNTS)).div_ceil(WIDTH))
    }
}

impl<'g> Var<'g> {
    /// The table `self` f32 `[rows, width + 2]` after counting hits of width `width`: to each row that is hit, the sums of the
    /// values of its hits are added, then their number, then 1. An index that names no row is dropped. Counts are exact up
    /// to 2^24; no gradient.
    ///
    /// `graph.assign(state, state.tally_rows(..))` updates the state's own buffer: the cost grows with the hits, not with the
    /// table. A gate does not hold it back: a run whose gate is closed is counted too.
    #[track_caller]
    pub fn tally_rows(self, hits: &Rows<'g>) -> Var<'g> {
        let runs = Runs::new(hits);
        let mut inputs = vec![self];
        inputs.extend(runs.inputs);
        self.graph().apply(TallyRows(runs.shape), &inputs)[0]
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let cases =
        [(1, 1, 1), (7, 3, 5), (5, 2, 0), (0, 2, 3), (9, 0, 4), (67, 5, 300), (3, 2, 1_000), (70_001, 1, 70_003)];
    let case = |(rows, width, n): (usize, usize, usize)| {
        let name = format!("tally_rows [{rows}, {width}] {n}");
        let sample = Sample::new(name, [&[rows, width + COUNTS], &[n, width]], move |_, x| {
            vec![x[0].tanh().tally_rows(&Rows::new(x[2], x[1], rows))]
        });
        sample.below(&[n], rows as u32 + 2).no_gradient()
    };
    cases.into_iter().map(case).collect()
}
