//! Gradients of Sinkhorn's iteration.
//!
//! Unrolled, with the weights `B_t = exp(R - u_t - v_t)` (columns sum to 1) and `A_t = exp(R - u_t - v_{t-1})` (rows sum to
//! 1), the cotangents of the potentials are
//!
//! ```text
//! dv_T = -(g P)^T 1     du_T = -(g P) 1 - B_T dv_T     dv_{t-1} = -A_t^T du_t     du_t = -B_t dv_t
//! ```
//!
//! and then `dR = g P + sum_t (B_t diag(dv_t) + diag(du_t) A_t)`. Weights are made again wherever they are needed.

use super::{Extents, Forward, Meta, cpu};
use crate::error::{Error, Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{Buffer, CpuCall, Kernel, Lower};
use crate::types::{Real, TensorType};

/// Cotangents of one side's potentials.
pub static FLOW: Kernel = kernel!("route/sinkhorn_flow");
/// Gradient of the scores.
pub static GRADIENT: Kernel = kernel!("route/sinkhorn_gradient");

/// Inputs: scores, cotangent of the plan, potentials of slots and of tokens, then the mask if there is one.
#[derive(Clone, Debug)]
pub(super) struct Backward {
    pub iterations: usize,
    pub masked: bool,
}

pub(super) fn unrolled<'g>(forward: &Forward, cx: &Vjp<'g>, g: Var<'g>) -> Var<'g> {
    let mut others = vec![g, cx.outputs[1], cx.outputs[2]];
    others.extend(cx.inputs.get(1));
    cx.inputs[0].op(Backward { iterations: forward.iterations, masked: forward.masked }, &others)
}

/// Gradient at the fixed point: with the actual sums `r` of the rows and `c` of the columns, and `Q = g P`,
/// `dR = Q - P (alpha_i + beta_j)` where `r alpha + P beta = Q 1` and `P^T alpha + c beta = Q^T 1`. The system is singular
/// but consistent, and `alpha_i + beta_j` is unique; solved for beta and alpha in turn.
pub(super) fn implicit<'g>(plan: Var<'g>, g: Var<'g>, iterations: usize) -> Var<'g> {
    let rank = plan.rank();
    let (row, column) = (rank - 1, rank - 2);
    let transposed = plan.transpose(-1, -2);
    let q = g * plan;
    let inverse = |sum: Var<'g>| sum.gt(0.0).select(1.0 / sum.maximum(1e-30), 0.0);
    let (r, c) = (inverse(plan.sum(row)), inverse(plan.sum(column).transpose(-1, -2)));
    let (by_slot, by_token) = (q.sum(row), q.sum(column).transpose(-1, -2));
    let mut alpha = by_slot * 0.0;
    let mut beta = by_token * c;
    for _ in 0..iterations {
        alpha = (by_slot - plan.matmul(beta)) * r;
        beta = (by_token - transposed.matmul(alpha)) * c;
    }
    q - plan * (alpha + beta.transpose(-1, -2))
}

impl Backward {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        cpu::backward(self.iterations, self.masked, call);
    }

    /// One dispatch of the cotangents of one side.
    fn flow(&self, cx: &mut Lower<'_>, meta: &Meta, values: Buffer, flow: Buffer) -> Result<()> {
        let (lanes, groups) = meta.grid(cx);
        cx.dispatch(&FLOW)
            .constant("LANES", lanes)
            .input(0)
            .input(if self.masked { 4 } else { 0 })
            .input(2)
            .input(3)
            .input(1)
            .read(values)
            .write(flow)
            .uniform(meta)
            .workgroups(groups)
    }
}

impl Op for Backward {
    fn name(&self) -> &'static str {
        "sinkhorn_gradient"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![inputs[0].clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.graph.fail(Error::argument(
            "second derivative of sinkhorn",
            "is not defined for the unrolled gradient; use SinkhornGradient::Implicit where it is needed",
        ));
        cx.none()
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let e = Extents::new(cx.inputs[0].shape());
        let n = e.batches * e.slots * e.tokens;
        if n == 0 {
            return Ok(());
        }
        let steps = self.iterations;
        let du = cx.temp(e.batches * steps * e.slots);
        let dv = cx.temp(e.batches * steps * e.tokens);
        let base = Meta::new(&e, steps, self.masked);
        let last = steps as u32 - 1;
        let plan = Meta { slot_step: last, token_step: last, with_cotangent: 1, ..base };
        self.flow(cx, &plan, du, dv)?;
        for step in (0..steps as u32).rev() {
            let of_plan = u32::from(step == last);
            let slots =
                Meta { by_slot: 1, slot_step: step, token_step: step, with_values: 1, with_cotangent: of_plan, ..base };
            self.flow(cx, &slots, dv, du)?;
            if step > 0 {
                let tokens = Meta { slot_step: step, token_step: step - 1, token_first: 1, with_values: 1, ..base };
                self.flow(cx, &tokens, du, dv)?;
            }
        }
        cx.dispatch(&GRADIENT)
            .input(0)
            .input(if self.masked { 4 } else { 0 })
            .input(2)
            .input(3)
            .input(1)
            .read(du)
            .read(dv)
            .output(0)
            .uniform(&base)
            .workgroups(n.div_ceil(64))
    }
}
