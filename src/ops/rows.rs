//! Scattering into a table: sums of hits by row.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let values = graph.constant(Tensor::f32([3, 1], vec![1.0, 2.0, 4.0])?);
//! let at = graph.constant(Tensor::u32([3], vec![1, 0, 1])?);
//! let plan = Device::cpu().compile_blocking(&graph, &[("table", values.scatter_add(at, 3))])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("table")?.floats(), [2.0, 5.0, 0.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, Place, par};
use crate::ops::runs::{RunShape, Runs};
use crate::types::{Real, TensorType};
use encase::ShaderType;

/// Sums of runs.
pub static RUN_SUMS: Kernel = kernel!("memory/run_sums");
/// The same for rows of full fours of elements.
pub static RUN_SUMS_WIDE: Kernel = kernel!("memory/run_sums_wide");
/// Zeros.
pub static ZERO: Kernel = kernel!("memory/zero");
/// Full fours of zeros.
pub static ZERO_WIDE: Kernel = kernel!("memory/zero_wide");

const WIDTH: usize = 64;
/// Invocations of a workgroup that writes fours of zeros.
const ZEROS: usize = 256;

/// Sums of sorted hits by row, a table `[rows, width]`. Inputs: the sorted hits, and the rows that were hit in the order of
/// the hits.
#[derive(Clone, Debug)]
struct ScatterAdd(RunShape);

impl ScatterAdd {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let runs = self.0.view(call, 0);
        let width = runs.width();
        let mean = runs.keys.len() / self.0.rows.max(1);
        par::rows(
            call.out(0),
            width,
            (mean + 4) * width,
            #[inline(always)]
            |row, out| {
                let start = runs.keys.partition_point(|k| (*k as usize) < row);
                if runs.keys.get(start).is_some_and(|k| *k as usize == row) {
                    runs.sum(start, out);
                } else {
                    out.fill(T::ZERO);
                }
            },
        );
    }
}

impl Op for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let width = self.0.check(inputs)?;
        Ok(vec![TensorType::f32([self.0.rows, width])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let (Some(g), [values, weights, .., indices]) = (cx.cotangent(), &cx.inputs[..]) else {
            return cx.none();
        };
        let mut grads = cx.none();
        if self.0.weighted {
            // Each row of values went, weighted, to the rows that its hits name.
            let shape = [values.dim(0), self.0.per];
            let (indices, weights) = (indices.reshape(shape), weights.reshape(shape));
            grads[0] = Some(g.weighted_gather(indices, weights).into());
            let count = shape[0] * shape[1];
            grads[1] = Some(g.gather_dot(indices, *values).reshape([count]).into());
        } else {
            grads[0] = Some(g.gather(*indices).into());
        }
        grads
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        if cx.outputs[0].numel() == 0 {
            return Ok(());
        }
        zero(cx, Place::Output(0), cx.outputs[0].numel())?;
        let (n, width) = (RunShape::elements(cx, 0), cx.inputs[0].shape()[1]);
        // Nothing at all cannot be bound as fours: there are no partial sums of few hits.
        let fours = if width.is_multiple_of(4) && cx.inputs[5].numel() > 0 { 4 } else { 1 };
        let kernel = if fours == 4 { &RUN_SUMS_WIDE } else { &RUN_SUMS };
        let (d, meta) = self.0.dispatch(cx, kernel, 0, true);
        d.input(3).input(4).output(0).uniform(&meta.narrowed(fours)).workgroups((n / fours).div_ceil(WIDTH))
    }
}

#[derive(ShaderType)]
struct Length {
    n: u32,
}

/// Fills a buffer of `size` elements with zeros.
pub(crate) fn zero(cx: &mut Lower<'_>, place: Place, size: usize) -> Result<()> {
    if size.is_multiple_of(4) {
        let fours = size / 4;
        let d = cx.dispatch(&ZERO_WIDE).write_to(place).uniform(&Length { n: fours as u32 });
        return d.workgroups(fours.div_ceil(ZEROS));
    }
    cx.dispatch(&ZERO).write_to(place).uniform(&Length { n: size as u32 }).workgroups(size.div_ceil(WIDTH))
}

impl<'g> Var<'g> {
    /// Sums values f32 `[count, width]` into a table `[rows, width]` at `indices` (u32 `[count]`); rows that are not hit
    /// are 0, and an index that is not below `rows` is dropped.
    ///
    /// Hits of a row are added in the order of their positions, long runs in pieces of 128 hits: the result is the same
    /// bit for bit at every run. The cost grows with the hits, but for zeroing the table. Gradient: [`gather`](Self::gather).
    #[track_caller]
    pub fn scatter_add(self, indices: Var<'g>, rows: usize) -> Var<'g> {
        Rows::new(indices, self, rows).dense()
    }
}

impl<'g> Rows<'g> {
    /// The whole table `[rows, width]`: hits of a row are added in a fixed order, as by
    /// [`scatter_add`](Var::scatter_add).
    #[track_caller]
    pub fn dense(&self) -> Var<'g> {
        let runs = Runs::new(self);
        let mut inputs = runs.inputs.to_vec();
        inputs.push(self.indices);
        self.indices.graph().apply(ScatterAdd(runs.shape), &inputs)[0]
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::graph::Factors;
    use crate::ops::samples::Sample;
    let shapes: [(usize, usize, usize, u32); 15] = [
        (1, 1, 1, 1),
        (7, 3, 5, 7),
        (0, 3, 4, 1),
        (5, 3, 0, 2),
        (5, 0, 3, 3),
        (300, 4, 0, 2),
        (127, 1, 2, 1),
        (129, 2, 1, 1),
        (300, 67, 9, 12),
        (5_003, 3, 4, 5),
        (300, 8, 9, 12),
        (129, 4, 3, 3),
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
    // Hits with weights, some of them to no row; gradients of values and weights, and theirs.
    for (count, per, width, rows, below) in [
        (1, 1, 1, 1, 1),
        (3, 0, 2, 2, 1),
        (0, 3, 2, 2, 1),
        (9, 4, 3, 5, 6),
        (700, 3, 5, 3, 3),
        (157, 32, 7, 900, 1_000),
        (70_001, 1, 1, 3, 4),
    ] {
        let name = format!("weighted hits [{count}, {per}] of [{rows}, {width}]");
        let sample = Sample::new(name, [&[count, width], &[count * per]], move |_, x| {
            let rows = Rows { factors: Some(Factors { weights: x[1], per }), ..Rows::new(x[2], x[0], rows) };
            vec![rows.dense()]
        });
        all.push(sample.below(&[count * per], below));
    }
    for (count, per, width, rows, below) in
        [(0, 1, 2, 3, 1), (9, 1, 3, 4, 5), (700, 2, 5, 3, 3), (5_003, 1, 1, 900, 1_000), (257, 32, 65, 70, 72)]
    {
        let name = format!("squares of hits [{count}, {per}] of [{rows}, {width}]");
        let sample = Sample::new(name, [&[count, width], &[count * per]], move |_, x| {
            let plain = Rows::new(x[2].slice(0, 0, count), x[0], rows);
            vec![
                plain.square_sum(),
                Rows { factors: Some(Factors { weights: x[1], per }), ..Rows::new(x[2], x[0], rows) }.square_sum(),
            ]
        });
        all.push(sample.below(&[count * per], below).no_gradient());
    }
    let mixed = Sample::new("hits of several kinds side by side", [&[4, 3], &[2, 3], &[6], &[2, 3], &[4]], |_, x| {
        let one = Rows::new(x[5], x[0], 7);
        let two = Rows { factors: Some(Factors { weights: x[2], per: 3 }), ..Rows::new(x[6], x[1], 7) };
        let three = Rows { factors: Some(Factors { weights: x[4], per: 2 }), ..Rows::new(x[7], x[3], 7) };
        let all = [&[one][..], &[two], &[two, two], &[one, two], &[two, three, one], &[one, one]];
        all.into_iter().filter_map(Rows::concat).map(|rows| rows.dense()).collect()
    });
    all.push(mixed.below(&[4], 8).below(&[6], 8).below(&[4], 7));
    all
}
