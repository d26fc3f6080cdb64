//! Index of the largest element along an axis.

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// Along the middle of three dimensions.
pub static ARGMAX: Kernel = kernel!("rowwise/argmax");

const WIDTH: usize = 64;

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
}

impl ArgMax {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (_, n, inner) = call.inputs[0].shape.split(self.axis);
        let x = call.f(0);
        par::rows(call.out_u(0), 1, n, |row, y| {
            let base = row / inner * n * inner + row % inner;
            let mut top = x[base];
            y[0] = 0;
            for i in 1..n {
                let v = x[base + i * inner];
                if v > top {
                    (top, y[0]) = (v, i as u32);
                }
            }
        });
    }
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
        let outputs = outer * inner;
        let meta = Meta { outputs: outputs as u32, n: n as u32, inner: inner as u32 };
        let single = inner > 1 || n <= 16 || (cx.caps.software && outputs >= 8);
        let (lanes, groups) = if single { (1, outputs.div_ceil(WIDTH)) } else { (WIDTH, outputs) };
        cx.dispatch(&ARGMAX).constant("LANES", lanes as f64).input(0).output(0).uniform(&meta).workgroups(groups)
    }
}

impl<'g> Var<'g> {
    /// Index (u32) of the largest element along `axis`, which stays with one element; the lowest index at a tie.
    #[track_caller]
    pub fn argmax(self, axis: usize) -> Var<'g> {
        self.op(ArgMax { axis }, &[])
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(&[usize], usize); 8] = [
        (&[7, 5], 0),
        (&[7, 5], 1),
        (&[1], 0),
        (&[3, 67, 4], 1),
        (&[0, 3], 1),
        (&[66_000, 3], 1),
        (&[2, 5_003], 1),
        (&[70_001], 0),
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
