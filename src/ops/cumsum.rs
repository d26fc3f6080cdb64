//! Running sums along an axis, in a fixed order.
//!
//! ```
//! use wgrad::{Device, Feed, Graph};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.full([4], 2.0);
//! let plan = Device::cpu().compile_blocking(&graph, &[("sums", x.cumsum(0)), ("before", x.cumsum_exclusive(0))])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("sums")?.floats(), [2.0, 4.0, 6.0, 8.0]);
//! assert_eq!(plan.read_blocking("before")?.floats(), [0.0, 2.0, 4.0, 6.0]);
//! # Ok(())
//! # }
//! ```

use super::reduce::piece_sums;
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// Pieces of the axis, each from the sum of the pieces before it.
pub static CUMSUM: Kernel = kernel!("rowwise/cumsum");

const WIDTH: usize = 64;
/// Elements of a piece; longer axes are cut, unless there are rows enough to fill a device.
const PIECE: usize = 1024;
/// Each piece adds up all sums before it, so there must not be too many.
const PIECES: usize = 1024;

/// Elements of a block on the CPU.
const CPU_PIECE: usize = 256;

/// `y_i = sum_{j <= i} x_j` along an axis; `j < i` if exclusive, from the other end if reverse.
#[derive(Clone, Copy, Debug)]
struct CumSum {
    axis: usize,
    exclusive: bool,
    reverse: bool,
}

#[derive(ShaderType)]
struct Meta {
    rows: u32,
    n: u32,
    inner: u32,
    pieces: u32,
    len: u32,
}

impl CumSum {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (_, n, inner) = call.inputs[0].shape.split(self.axis);
        let x = call.f(0);
        par::rows(
            call.out(0),
            n * inner,
            n * inner,
            #[inline(always)]
            |o, y| {
                let x = &x[o * n * inner..(o + 1) * n * inner];
                // Two levels, as on the GPU: what a block adds up stays small beside its start.
                let (mut start, mut block) = (vec![T::ZERO; inner], vec![T::ZERO; inner]);
                for step in 0..n {
                    if step % CPU_PIECE == 0 {
                        for (start, block) in start.iter_mut().zip(&mut block) {
                            *start += std::mem::take(block);
                        }
                    }
                    let i = if self.reverse { n - 1 - step } else { step };
                    let (y, x) = (&mut y[i * inner..], &x[i * inner..]);
                    for j in 0..inner {
                        let before = block[j];
                        block[j] += x[j];
                        y[j] = start[j] + if self.exclusive { before } else { block[j] };
                    }
                }
            },
        );
    }
}

impl Op for CumSum {
    fn name(&self) -> &'static str {
        "cumsum"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let x = &inputs[0];
        x.require(DType::F32, "convert with to_f32")?;
        if self.axis >= x.shape.len() {
            let rank = x.shape.len();
            return Refusal::shape(format!("axis {} of {rank} dimensions", self.axis));
        }
        Ok(vec![x.clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let back = CumSum { reverse: !self.reverse, ..*self };
        cx.dense([cx.cotangent().map(|g| g.op(back, &[]))])
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (outer, n, inner) = cx.inputs[0].shape().split(self.axis);
        if outer * n * inner == 0 {
            return Ok(());
        }
        let pieces = if n > 2 * PIECE && outer * inner < 1 << 14 { n.div_ceil(PIECE).min(PIECES) } else { 1 };
        let len = n.div_ceil(pieces);
        let rows = outer * pieces * inner;
        let sums = (pieces > 1).then(|| cx.temp(rows));
        if let Some(sums) = sums {
            piece_sums(cx, [outer, n, inner], pieces, sums)?;
        }
        let meta = Meta { rows: rows as u32, n: n as u32, inner: inner as u32, pieces: pieces as u32, len: len as u32 };
        let single = inner > 1 || len < 32 || (cx.caps.software && rows >= 8);
        let (lanes, groups) = if single { (1, rows.div_ceil(WIDTH)) } else { (WIDTH, rows) };
        let d = cx
            .dispatch(&CUMSUM)
            .constant("LANES", lanes as f64)
            .constant("EXCLUSIVE", f64::from(u8::from(self.exclusive)))
            .constant("REVERSE", f64::from(u8::from(self.reverse)))
            .input(0);
        // With one piece there are no sums to read; the input stands in for the binding.
        let d = match sums {
            Some(sums) => d.read(sums),
            None => d.input(0),
        };
        d.output(0).uniform(&meta).workgroups(groups)
    }
}

impl<'g> Var<'g> {
    #[track_caller]
    fn running(self, axis: usize, exclusive: bool, reverse: bool) -> Var<'g> {
        let op = CumSum { axis, exclusive, reverse };
        self.op(op, &[])
    }

    /// Running sum along `axis`, each element included in its own sum; f32, of the same shape.
    #[track_caller]
    pub fn cumsum(self, axis: usize) -> Var<'g> {
        self.running(axis, false, false)
    }

    /// Sum of the elements before each one along `axis`; 0 for the first; f32, of the same shape.
    #[track_caller]
    pub fn cumsum_exclusive(self, axis: usize) -> Var<'g> {
        self.running(axis, true, false)
    }

    /// Running sum along `axis` from its end: each element and all after it; `exclusive` leaves the element out. f32, of the
    /// same shape.
    #[track_caller]
    pub fn cumsum_reverse(self, axis: usize, exclusive: bool) -> Var<'g> {
        self.running(axis, exclusive, true)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(&[usize], usize); 12] = [
        (&[7, 5], 0),
        (&[7, 5], 1),
        (&[1], 0),
        (&[3, 67, 4], 1),
        (&[0, 3], 1),
        (&[2, 0, 3], 1),
        (&[66_000, 3], 1),
        (&[3, 1_000], 1),
        (&[2, 2_048], 1),
        (&[2, 5_003], 1),
        (&[2_051, 3], 0),
        (&[70_001], 0),
    ];
    shapes
        .into_iter()
        .map(|(shape, axis)| {
            Sample::new(format!("cumsum {shape:?} {axis}"), [shape], move |_, x| {
                vec![
                    x[0].cumsum(axis),
                    x[0].cumsum_exclusive(axis),
                    x[0].cumsum_reverse(axis, false),
                    x[0].cumsum_reverse(axis, true),
                ]
            })
        })
        .collect()
}
