//! TODO: what it computes, and the source. For now the square.

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// One element an invocation.
pub static NEW_OP: Kernel = kernel!("elementwise/new_op");

const WIDTH: usize = 64;

/// `y = x²`, any shape. Every attribute must be a field: equal `Debug` texts on equal inputs merge.
#[derive(Clone, Debug)]
struct NewOp;

#[derive(ShaderType)]
struct Meta {
    n: u32,
}

impl NewOp {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let x = call.f(0);
        par::rows(call.out(0), 1, 1, |i, y| y[0] = x[i] * x[i]);
    }
}

impl Op for NewOp {
    fn name(&self) -> &'static str {
        "new_op"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        inputs[0].require(DType::F32, "convert with to_f32")?;
        Ok(vec![inputs[0].clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.dense([cx.cotangent().map(|g| g * 2.0 * cx.inputs[0])])
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.outputs[0].numel();
        cx.dispatch(&NEW_OP).input(0).output(0).uniform(&Meta { n: n as u32 }).workgroups(n.div_ceil(WIDTH))
    }
}

impl<'g> Var<'g> {
    /// TODO: what it computes, shapes, what is refused.
    #[track_caller]
    pub fn new_op(self) -> Var<'g> {
        self.op(NewOp, &[])
    }
}

/// Samples for the generic checks: nothing, one, primes, more than 65,535 rows, not a multiple of the workgroup.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [&[usize]; 6] = [&[0, 3], &[1], &[7, 13], &[66_000, 2], &[129], &[]];
    shapes.into_iter().map(|s| Sample::new(format!("new_op {s:?}"), [s], |_, x| vec![x[0].new_op()])).collect()
}
