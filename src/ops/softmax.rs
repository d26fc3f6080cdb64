//! Softmax along an axis, with the maximum taken off first, so that nothing overflows.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.constant(Tensor::f32([1, 3], vec![1.0, 1.0, 9.0])?);
//! let mask = graph.constant(Tensor::u32([1, 3], vec![1, 1, 0])?);
//! // Masked with the lowest number: WGSL has no infinities.
//! let y = x.keep_where(mask, f64::from(f32::MIN)).softmax(1);
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", y)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("y")?.floats(), [0.5, 0.5, 0.0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::{exp_sum, max};
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// One row a workgroup or an invocation.
pub static SOFTMAX: Kernel = kernel!("rowwise/softmax");

/// `y_i = exp(x_i - max x) / sum_j exp(x_j - max x)` over the last axis.
#[derive(Clone, Debug)]
struct Softmax;

/// Shape of the rows a row kernel works on.
#[derive(ShaderType)]
pub(crate) struct RowMeta {
    pub rows: u32,
    pub n: u32,
    pub offset: u32,
}

/// Lanes a row kernel gives to a row, and workgroups it needs.
pub(crate) fn row_grid(cx: &Lower<'_>, rows: usize, n: usize) -> (usize, usize) {
    if n <= 16 || (cx.caps.software && rows >= 8) { (1, rows.div_ceil(64)) } else { (64, rows) }
}

impl Softmax {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (_, n) = call.inputs[0].shape.rows();
        let x = call.f(0);
        par::rows(
            call.out(0),
            n,
            8 * n,
            #[inline(always)]
            |r, y| {
                let row = &x[r * n..(r + 1) * n];
                y.copy_from_slice(row);
                let scale = T::ONE / exp_sum(y, max(row));
                y.iter_mut().for_each(|y| *y *= scale);
            },
        );
    }
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        inputs[0].require(DType::F32, "convert with to_f32")?;
        if inputs[0].shape.is_empty() {
            return Refusal::shape("needs at least one dimension");
        }
        Ok(vec![inputs[0].clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let y = cx.outputs[0];
        let axis = y.rank() - 1;
        let dot = (g * y).sum(axis);
        vec![Some((y * (g - dot)).into())]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, n) = cx.inputs[0].shape().rows();
        let meta = RowMeta { rows: rows as u32, n: n as u32, offset: cx.lead(&cx.inputs[0]) as u32 };
        let (lanes, groups) = row_grid(cx, rows, n);
        let groups = if n == 0 { 0 } else { groups };
        cx.dispatch(&SOFTMAX).constant("LANES", lanes as f64).input(0).output(0).uniform(&meta).workgroups(groups)
    }
}

impl<'g> Var<'g> {
    /// Softmax along `axis`: f32, of the same shape. A row whose entries are all masked with `f32::MIN` becomes uniform.
    #[track_caller]
    pub fn softmax(self, axis: usize) -> Var<'g> {
        let last = self.rank().saturating_sub(1);
        if axis >= last {
            return self.op(Softmax, &[]);
        }
        let (a, b) = (axis as isize, last as isize);
        self.transpose(a, b).op(Softmax, &[]).transpose(a, b)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(&[usize], usize); 7] =
        [(&[7, 5], 1), (&[7, 5], 0), (&[3, 1, 130], 2), (&[1], 0), (&[0, 4], 1), (&[66_000, 2], 1), (&[2, 3_001], 1)];
    let mut all: Vec<Sample> = shapes
        .into_iter()
        .map(|(s, axis)| Sample::new(format!("softmax {s:?} {axis}"), [s], move |_, x| vec![x[0].softmax(axis)]))
        .collect();
    all.push(
        Sample::new("softmax of masked rows", [&[4, 6]], |_, x| {
            vec![x[0].keep_where(x[1], f64::from(f32::MIN)).softmax(1)]
        })
        .below(&[4, 6], 2),
    );
    all
}
