//! Counting steps, and what the host reads after one.

use super::flag;
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower};
use crate::types::{Real, TensorType};

/// One invocation.
pub static TALLY: Kernel = kernel!("optim/tally");

/// Inputs: progress (steps done, steps skipped; u32 `[2]`, in place), loss and square of the gradients' norm (f32 `[]`),
/// gate (u32 `[]`). Outputs: progress with this step counted, and a [`Report`] as u32 `[5]`. It reads the gate as a
/// fact to count: a closed gate does not stop it.
#[derive(Clone, Debug)]
pub struct Tally;

/// What the host reads after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// The loss; averaged over the micro-batches.
    pub loss: f32,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f32,
    /// Whether the step was done; if not, loss or gradients were not finite and nothing changed.
    pub ok: bool,
    /// Steps done so far.
    pub done: u32,
    /// Steps skipped so far.
    pub skipped: u32,
}

impl Report {
    /// From the words that [`Tally`] writes.
    pub fn from_words(words: &[u32]) -> Option<Report> {
        let &[loss, norm_sq, ok, done, skipped] = words else {
            return None;
        };
        Some(Report {
            loss: f32::from_bits(loss),
            grad_norm: f32::from_bits(norm_sq).sqrt(),
            ok: ok != 0,
            done,
            skipped,
        })
    }
}

impl Tally {
    /// New progress u32 `[2]` and the words of a [`Report`], u32 `[5]`, from the progress before (u32 `[2]`: steps done and
    /// skipped), loss and square of the norm (f32 `[]`) and whether the step is done (u32 `[]`).
    #[track_caller]
    pub fn count<'g>(progress: Var<'g>, loss: Var<'g>, norm_sq: Var<'g>, ok: Var<'g>) -> Vec<Var<'g>> {
        progress.graph().apply(Tally, &[progress, loss, norm_sq, ok])
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let bits = |x: &[T]| x.first().map_or(0, |x| (x.f64() as f32).to_bits());
        let (loss, norm_sq) = (bits(call.f(1)), bits(call.f(2)));
        let ok = u32::from(flag(call, 3) != 0);
        let [progress, report] = [call.take_u(0), call.take_u(1)];
        if let [done, skipped] = progress {
            *done = done.wrapping_add(ok);
            *skipped = skipped.wrapping_add(1 - ok);
            report.copy_from_slice(&[loss, norm_sq, ok, *done, *skipped]);
        }
    }
}

impl Op for Tally {
    fn name(&self) -> &'static str {
        "tally"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (float, int) = (TensorType::f32([]), TensorType::u32([]));
        if *inputs != [TensorType::u32([2]), float.clone(), float, int] {
            return Refusal::shape("needs progress u32[2], loss and norm² f32[], gate u32[]");
        }
        Ok(vec![TensorType::u32([2]), TensorType::u32([5])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let d = cx.dispatch(&TALLY).input(1).input(2).input(3);
        d.output(0).output(1).workgroups(1)
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let sample = Sample::new("tally", [&[], &[]], |g, x| {
        let mut all = Tally::count(x[2], x[0], x[1], g.full_u32([], 1));
        all.extend(Tally::count(x[2], x[0], x[1], g.full_u32([], 0)));
        all
    });
    vec![sample.below(&[2], 100).no_gradient()]
}
