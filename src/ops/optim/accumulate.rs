//! Running totals of gradients over micro-batches.

use super::{CPU_PIECE, flag};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// One element an invocation.
pub static ACCUMULATE: Kernel = kernel!("optim/accumulate");

const WIDTH: usize = 64;

/// `total = (first ? 0 : total) + scale value`, in place. It does not heed the gate: what is left from a bad round
/// is overwritten when the next one begins.
#[derive(Clone, Debug)]
pub struct Accumulate {
    /// Factor on what is added.
    pub scale: f64,
}

#[derive(ShaderType)]
struct Meta {
    n: u32,
    scale: f32,
}

impl Accumulate {
    /// The new total; `first` (u32 `[]`) starts from 0.
    #[track_caller]
    pub fn add<'g>(self, total: Var<'g>, value: Var<'g>, first: Var<'g>) -> Var<'g> {
        total.op(self, &[value, first])
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (value, first) = (call.f(1), flag(call, 2) != 0);
        let scale = T::of(self.scale);
        par::zipped(
            [call.take(0)],
            CPU_PIECE,
            #[inline(always)]
            |start, [total]| {
                for (total, &v) in total.iter_mut().zip(&value[start..]) {
                    *total = if first { scale * v } else { *total + scale * v };
                }
            },
        );
    }
}

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        inputs[0].require(DType::F32, "totals are floats")?;
        if inputs[1] != inputs[0] || inputs[2] != TensorType::u32([]) {
            return Refusal::shape("needs total and value of one shape, and a u32 scalar");
        }
        Ok(vec![inputs[0].clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.outputs[0].numel();
        let meta = Meta { n: n as u32, scale: self.scale as f32 };
        let d = cx.dispatch(&ACCUMULATE).input(1).input(2).output(0);
        d.uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    [&[0usize][..], &[], &[3, 43], &[70_001]]
        .into_iter()
        .map(|s| {
            let sample = Sample::new(format!("accumulate {s:?}"), [s, s], |g, x| {
                let add = |first| Accumulate { scale: 0.25 }.add(x[0], x[1], g.full_u32([], first));
                vec![add(0), add(1)]
            });
            sample.no_gradient()
        })
        .collect()
}
