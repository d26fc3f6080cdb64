//! Writing a value into a state at the end of a run.

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, Slice, SliceMut};
use crate::types::{Real, TensorType};
use encase::ShaderType;

/// Gated copy.
pub static ASSIGN: Kernel = kernel!("elementwise/assign");

const WIDTH: usize = 64;

/// Inputs: state, value, and with `gated` the gate; the state changes only if the gate is not 0. Made by the planner.
#[derive(Clone, Debug)]
pub struct Assign {
    /// Whether there is a gate.
    pub gated: bool,
}

#[derive(ShaderType)]
struct Meta {
    n: u32,
    gated: u32,
    offset: u32,
}

impl Assign {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        if self.gated && call.u(2).first() == Some(&0) {
            return;
        }
        let input = &call.inputs[1];
        let range = input.layout.offset..input.layout.end(input.shape);
        match (&mut call.outputs[0].data, input.data) {
            (SliceMut::Float(out), Slice::Float(data)) => out.copy_from_slice(&data[range]),
            (SliceMut::Int(out), Slice::Int(data)) => out.copy_from_slice(&data[range]),
            _ => {}
        }
    }
}

impl Op for Assign {
    fn name(&self) -> &'static str {
        "assign"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
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
        let meta = Meta { n: n as u32, gated: u32::from(self.gated), offset: cx.lead(&cx.inputs[1]) as u32 };
        let gate = if self.gated { 2 } else { 1 };
        cx.dispatch(&ASSIGN).input(1).input(gate).output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}
