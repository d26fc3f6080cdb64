//! Sums, sums of squares, maxima and minima along an axis, in a fixed order.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.constant(Tensor::f32([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 9.0])?);
//! let plan = Device::cpu().compile_blocking(&graph, &[("sum", x.sum(0)), ("max", x.max(1)), ("mean", x.mean_all())])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("sum")?.floats(), [5.0, 7.0, 12.0]);
//! assert_eq!(plan.read_blocking("max")?.floats(), [3.0, 9.0]);
//! assert_eq!(plan.read_blocking("mean")?.floats(), [4.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::fold;
use crate::kernels::{Buffer, CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, Shape, TensorType};
use encase::ShaderType;

/// Reduction of the middle of three dimensions.
pub static REDUCE: Kernel = kernel!("rowwise/reduce");

const WIDTH: usize = 64;
/// Elements that one invocation or workgroup adds up; longer axes are reduced in two passes.
const PIECE: usize = 1024;
/// The same on the CPU.
const CPU_PIECE: usize = 256;

/// What is reduced.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Sum,
    SquareSum,
    Max,
    Min,
}

/// Reduces `axis` to one element (the dimension stays).
#[derive(Clone, Debug)]
struct Reduce {
    kind: Kind,
    axis: usize,
}

#[derive(ShaderType)]
struct Meta {
    outputs: u32,
    n: u32,
    inner: u32,
    pieces: u32,
    len: u32,
    offset: u32,
}

impl Reduce {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        match self.kind {
            Kind::Sum => self.joined(call, T::ZERO, |v| v, |a, b| a + b),
            Kind::SquareSum => self.joined(call, T::ZERO, |v| v * v, |a, b| a + b),
            Kind::Max => self.joined(call, T::LOWEST, |v| v, T::max),
            Kind::Min => self.joined(call, -T::LOWEST, |v| v, T::min),
        }
    }

    fn joined<T: Real>(
        &self,
        call: &mut CpuCall<'_, T>,
        start: T,
        map: impl Fn(T) -> T + Sync,
        join: impl Fn(T, T) -> T + Copy + Sync,
    ) {
        let (_, n, inner) = call.inputs[0].shape.split(self.axis);
        let x = call.f(0);
        if inner == 1 {
            par::rows(
                call.out(0),
                1,
                n,
                #[inline(always)]
                |o, y| {
                    // Long rows in pieces: a large sum would swallow small terms.
                    y[0] = start;
                    for piece in x[o * n..(o + 1) * n].chunks(CPU_PIECE) {
                        y[0] = join(y[0], fold(piece, piece, start, |x, _| map(x), join));
                    }
                },
            );
            return;
        }
        // Pieces of the axis are added up first, side by side and in short chains, then joined in order.
        let pieces = n.div_ceil(CPU_PIECE).max(1);
        let mut partial = vec![start; call.out(0).len() * pieces];
        par::rows(
            &mut partial,
            inner,
            CPU_PIECE * inner,
            #[inline(always)]
            |i, y| {
                let (o, p) = (i / pieces, i % pieces);
                let (from, to) = (p * CPU_PIECE, ((p + 1) * CPU_PIECE).min(n));
                for row in x[(o * n + from) * inner..(o * n + to) * inner].chunks(inner.max(1)) {
                    for (y, &v) in y.iter_mut().zip(row) {
                        *y = join(*y, map(v));
                    }
                }
            },
        );
        for (i, rows) in partial.chunks(inner.max(1)).enumerate() {
            let o = i / pieces;
            let y = &mut call.out(0)[o * inner..(o + 1) * inner];
            if i % pieces == 0 {
                y.copy_from_slice(rows);
            } else {
                y.iter_mut().zip(rows).for_each(|(y, &v)| *y = join(*y, v));
            }
        }
    }
}

impl Op for Reduce {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Sum => "sum",
            Kind::SquareSum => "sum_of_squares",
            Kind::Max => "max",
            Kind::Min => "min",
        }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let x = &inputs[0];
        x.require(DType::F32, "convert with to_f32")?;
        if self.axis >= x.shape.len() {
            return Refusal::shape(format!("axis {} of {} dimensions", self.axis, x.shape.len()));
        }
        if matches!(self.kind, Kind::Max | Kind::Min) && x.shape[self.axis] == 0 {
            return Refusal::shape("no elements have no maximum or minimum");
        }
        let mut shape = x.shape.clone();
        shape.0[self.axis] = 1;
        Ok(vec![TensorType::f32(shape)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let x = cx.inputs[0];
        let grad = match self.kind {
            Kind::Sum => g.expand(x.shape()),
            Kind::SquareSum => x * (g * 2.0),
            Kind::Max | Kind::Min => {
                let hit = x.eq(cx.outputs[0]).to_f32();
                hit * (g / hit.sum(self.axis))
            }
        };
        vec![Some(grad.into())]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (outer, n, inner) = cx.inputs[0].shape().split(self.axis);
        let count = outer * inner;
        let pieces = if n > 2 * PIECE && count < 1 << 14 { n.div_ceil(PIECE) } else { 1 };
        let offset = cx.lead(&cx.inputs[0]) as u32;
        if pieces == 1 {
            return self.pass(cx, None, None, [outer, n, inner], 1, offset);
        }
        let partial = cx.temp(outer * pieces * inner);
        self.pass(cx, None, Some(partial), [outer, n, inner], pieces, offset)?;
        self.pass(cx, Some(partial), None, [outer, pieces, inner], 1, 0)
    }
}

impl Reduce {
    fn pass(
        &self,
        cx: &mut Lower<'_>,
        from: Option<Buffer>,
        to: Option<Buffer>,
        [outer, n, inner]: [usize; 3],
        pieces: usize,
        offset: u32,
    ) -> Result<()> {
        let outputs = outer * pieces * inner;
        let len = n.div_ceil(pieces);
        let meta = Meta {
            outputs: outputs as u32,
            n: n as u32,
            inner: inner as u32,
            pieces: pieces as u32,
            len: len as u32,
            offset,
        };
        let lanes = if inner > 1 || len < 32 || (cx.caps.software && outputs >= 8) { 1 } else { WIDTH };
        let d = cx.dispatch(&REDUCE).constant("LANES", lanes as f64);
        let d = match self.kind {
            Kind::Sum => d,
            // Partial sums of squares are only added up.
            Kind::SquareSum => d.constant("SQUARE", f64::from(u8::from(from.is_none()))),
            Kind::Max => d.constant("MAX", 1.0),
            Kind::Min => d.constant("MAX", 1.0).constant("SIGN", -1.0),
        };
        let d = match from {
            Some(buffer) => d.read(buffer),
            None => d.input(0),
        };
        let d = match to {
            Some(buffer) => d.write(buffer),
            None => d.output(0),
        };
        d.uniform(&meta).workgroups(if lanes == 1 { outputs.div_ceil(WIDTH) } else { outputs })
    }
}

/// Sums pieces of the middle of input 0, `[outer, n, inner] -> [outer, pieces, inner]`.
pub(crate) fn piece_sums(cx: &mut Lower<'_>, dims: [usize; 3], pieces: usize, to: Buffer) -> Result<()> {
    let sum = Reduce { kind: Kind::Sum, axis: 1 };
    sum.pass(cx, None, Some(to), dims, pieces, 0)
}

/// Sums the middle of a temporary `[outer, pieces, inner]` into output 0.
pub(crate) fn sum_pieces(cx: &mut Lower<'_>, from: Buffer, dims: [usize; 3]) -> Result<()> {
    let sum = Reduce { kind: Kind::Sum, axis: 1 };
    sum.pass(cx, Some(from), None, dims, 1, 0)
}

impl<'g> Var<'g> {
    #[track_caller]
    fn reduce(self, kind: Kind, axis: usize) -> Var<'g> {
        self.op(Reduce { kind, axis }, &[])
    }

    /// Sum along `axis`, which stays with one element: f32 `[.., n, ..]` to `[.., 1, ..]`.
    #[track_caller]
    pub fn sum(self, axis: usize) -> Var<'g> {
        self.reduce(Kind::Sum, axis)
    }

    /// Sum of squares along `axis`, which stays with one element: f32 `[.., n, ..]` to `[.., 1, ..]`. The squares are not
    /// stored.
    #[track_caller]
    pub fn sum_of_squares(self, axis: usize) -> Var<'g> {
        self.reduce(Kind::SquareSum, axis)
    }

    /// Maximum along `axis`, which stays with one element: f32 `[.., n, ..]` to `[.., 1, ..]`. Ties share the gradient.
    #[track_caller]
    pub fn max(self, axis: usize) -> Var<'g> {
        self.reduce(Kind::Max, axis)
    }

    /// Minimum along `axis`, which stays with one element: f32 `[.., n, ..]` to `[.., 1, ..]`. Ties share the gradient.
    #[track_caller]
    pub fn min(self, axis: usize) -> Var<'g> {
        self.reduce(Kind::Min, axis)
    }

    /// Mean along `axis`, which stays with one element: f32 `[.., n, ..]` to `[.., 1, ..]`.
    #[track_caller]
    pub fn mean(self, axis: usize) -> Var<'g> {
        let n = self.shape().get(axis).copied().unwrap_or(1).max(1);
        self.sum(axis) * (1.0 / n as f64)
    }

    /// Sum of all elements, as a scalar `[]`.
    #[track_caller]
    pub fn sum_all(self) -> Var<'g> {
        let n = self.shape().numel();
        self.reshape([n]).sum(0).reshape([])
    }

    /// Mean of all elements, as a scalar `[]`.
    #[track_caller]
    pub fn mean_all(self) -> Var<'g> {
        let n = self.shape().numel().max(1);
        self.sum_all() * (1.0 / n as f64)
    }

    /// Sums what broadcasting repeated: the inverse of expanding from `shape`, and its gradient. `[2, 3, 4]` to `[3, 1]` sums
    /// the first dimension and the last.
    #[track_caller]
    pub fn sum_to(self, shape: impl Into<Shape>) -> Var<'g> {
        let to = shape.into();
        let from = self.shape();
        if from == to {
            return self;
        }
        let lead = from.len().saturating_sub(to.len());
        let summed: Vec<bool> = (0..from.len()).map(|i| i < lead || (to[i - lead] == 1 && from[i] != 1)).collect();
        let mut x = self;
        let mut i = from.len();
        while i > 0 {
            i -= 1;
            if !summed[i] || from[i] == 1 {
                continue;
            }
            if x.rank() != from.len() {
                // An error stands in for the sum.
                break;
            }
            // A run of neighbouring dimensions is one sum.
            let last = i;
            while i > 0 && (summed[i - 1] || from[i - 1] == 1) {
                i -= 1;
            }
            let mut merged = x.shape();
            let n = merged[i..=last].iter().product();
            merged.0.splice(i..=last, [n]);
            let mut kept = x.shape();
            kept.0[i..=last].fill(1);
            x = x.reshape(merged).sum(i).reshape(kept);
        }
        x.reshape(to)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    for (shape, axis) in [
        (&[7usize, 5][..], 0),
        (&[7, 5], 1),
        (&[3, 67, 4], 1),
        (&[2, 0, 3], 1),
        (&[1], 0),
        (&[70_000, 3], 1),
        (&[3, 5_003], 1),
        (&[5_003, 3], 0),
    ] {
        all.push(Sample::new(format!("sum {shape:?} {axis}"), [shape], move |_, x| {
            vec![x[0].sum(axis), x[0].mean(axis), x[0].sum_all(), x[0].sum_of_squares(axis)]
        }));
        if shape[axis] > 0 {
            all.push(Sample::new(format!("max {shape:?} {axis}"), [shape], move |_, x| {
                vec![x[0].max(axis), x[0].min(axis)]
            }));
        }
    }
    all.push(Sample::new("sum_to", [&[4, 3, 5, 2]], |_, x| {
        vec![x[0].sum_to([3, 1, 1]), x[0].sum_to([5, 2]), x[0].sum_to([]), x[0].sum_to([4, 1, 5, 1])]
    }));
    all
}
