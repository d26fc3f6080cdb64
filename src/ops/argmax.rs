//! Index of the largest element along an axis.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let scores = graph.constant(Tensor::f32([2, 3], vec![1.0, 5.0, 2.0, 7.0, 0.0, 7.0])?);
//! let plan = Device::cpu().compile_blocking(&graph, &[("best", scores.argmax(1))])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("best")?.ints(), [1, 0]); // of equal ones the first
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, Place, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// Along the middle of three dimensions, or pieces of it.
pub static ARGMAX: Kernel = kernel!("rowwise/argmax");

const WIDTH: usize = 64;
/// Entries of a piece: a longer axis is cut where there are too few rows to fill a device.
const PIECE: usize = 4096;

/// `[.., n, ..] -> [.., 1, ..]`, u32.
#[derive(Clone, Debug)]
struct ArgMax {
    axis: usize,
}

#[derive(ShaderType)]
struct Meta {
    outputs: u32,
    n: u32,
    inner: u32,
    pieces: u32,
    len: u32,
}

impl ArgMax {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (_, n, inner) = call.inputs[0].shape.split(self.axis);
        let x = call.f(0);
        par::rows(
            call.out_u(0),
            1,
            n,
            #[inline(always)]
            |row, y| {
                let base = row / inner * n * inner + row % inner;
                let mut top = x[base];
                y[0] = 0;
                for i in 1..n {
                    let v = x[base + i * inner];
                    if v > top || (is_nan(top) && !is_nan(v)) {
                        (top, y[0]) = (v, i as u32);
                    }
                }
            },
        );
    }
}

fn is_nan<T: Real>(v: T) -> bool {
    v.partial_cmp(&v).is_none()
}

impl Op for ArgMax {
    fn name(&self) -> &'static str {
        "argmax"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let x = &inputs[0];
        x.require(DType::F32, "convert with to_f32")?;
        let rank = x.shape.len();
        match x.shape.get(self.axis) {
            None => Refusal::shape(format!("axis {} of {rank} dimensions", self.axis)),
            Some(0) => Refusal::shape("no elements have no largest one"),
            Some(_) => {
                let mut shape = x.shape.clone();
                shape.0[self.axis] = 1;
                Ok(vec![TensorType::u32(shape)])
            }
        }
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (outer, n, inner) = cx.inputs[0].shape().split(self.axis);
        let rows = outer * inner;
        let input = [Place::Input(0); 2];
        let pieces = if rows < WIDTH { n.div_ceil(PIECE) } else { 1 };
        if pieces == 1 {
            return pass(cx, input, None, [rows, n, inner], [1, n]);
        }
        let found = [cx.temp(rows * pieces), cx.temp(rows * pieces)].map(Place::Temp);
        pass(cx, input, Some(found), [rows * pieces, n, inner], [pieces, PIECE])?;
        pass(cx, found, None, [rows, pieces, inner], [1, pieces])
    }
}

/// One dispatch: `outputs` of pieces of `len` entries, from values or from what a pass before found.
fn pass(
    cx: &mut Lower<'_>,
    from: [Place; 2],
    to: Option<[Place; 2]>,
    [outputs, n, inner]: [usize; 3],
    [pieces, len]: [usize; 2],
) -> Result<()> {
    let meta =
        Meta { outputs: outputs as u32, n: n as u32, inner: inner as u32, pieces: pieces as u32, len: len as u32 };
    let single = inner > 1 || len <= 16 || (cx.caps.software && outputs >= 8);
    let (lanes, groups) = if single { (1, outputs.div_ceil(WIDTH)) } else { (WIDTH, outputs) };
    let [ranks, indices] = match to {
        Some(found) => found,
        None => [Place::Temp(cx.temp(1)), Place::Output(0)],
    };
    cx.dispatch(&ARGMAX)
        .constant("LANES", lanes as f64)
        .constant("PAIRS", f64::from(u8::from(from[0] != from[1])))
        .constant("LAST", f64::from(u8::from(to.is_none())))
        .read_from(from[0])
        .read_from(from[1])
        .write_to(ranks)
        .write_to(indices)
        .uniform(&meta)
        .workgroups(groups)
}

impl<'g> Var<'g> {
    /// Index of the largest element along `axis`, which stays with one element: f32 `[.., n, ..]` to u32 `[.., 1, ..]`.
    /// The lowest index at a tie, and NaN after all numbers, as in [`top_k`](Self::top_k).
    #[track_caller]
    pub fn argmax(self, axis: usize) -> Var<'g> {
        self.op(ArgMax { axis }, &[])
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(&[usize], usize); 10] = [
        (&[7, 5], 0),
        (&[7, 5], 1),
        (&[1], 0),
        (&[3, 67, 4], 1),
        (&[0, 3], 1),
        (&[66_000, 3], 1),
        (&[2, 5_003], 1),
        (&[70_001], 0),
        (&[9_001, 3], 0),
        (&[2, 1_000_003], 1),
    ];
    let mut all: Vec<Sample> = shapes
        .into_iter()
        .map(|(shape, axis)| {
            Sample::new(format!("argmax {shape:?} {axis}"), [shape], move |_, x| {
                // Rounded, so that there are ties.
                let masked = x[0].lt(0.0).select(f64::from(f32::MIN), x[0]);
                vec![x[0].argmax(axis), x[0].floor().argmax(axis), masked.argmax(axis)]
            })
            .no_gradient()
        })
        .collect();
    all.push(
        Sample::new("argmax of masked rows", [&[9, 130]], |g, _| vec![g.full([9, 130], f64::from(f32::MIN)).argmax(1)])
            .no_gradient(),
    );
    all
}
