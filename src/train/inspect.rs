//! Where a number that is none came from.

use super::trainer::{Trainer, controls};
use crate::error::Result;
use crate::exec::Store;
use crate::plan::{Program, Step};
use crate::types::{DType, Operand, Tensor};
use std::collections::HashMap;

impl Trainer {
    /// Which value of the last batch, in the order of the computation, was the first with an infinity or a NaN: an input by its
    /// name, else an operation with type and place of what it computed. For a step of which [`loss`](Self::loss) says
    /// [`NotFinite`](crate::Error::NotFinite): such a step changed nothing, so it can be done again, with the same inputs and
    /// stores. With micro-batches this is about the last one of them, the only one whose random numbers are still known, and
    /// about its own loss and gradients; hand over the inputs of that one. If it is fine, an earlier one was not. A training
    /// that has stopped ([`NotFinite::Stop`](super::NotFinite::Stop)) wants the inputs of the step that the error names.
    ///
    /// Loss and gradients are computed once more by a plan made for it, which keeps every value in memory of its own, and read
    /// back one after the other; nothing is changed. `None` if all are finite.
    ///
    /// # Errors
    /// As [`step_with`](Self::step_with); [`OutOfMemory`](crate::Error::OutOfMemory) where all values at once do not fit.
    pub async fn first_not_finite(&self, inputs: &[(&str, &Tensor)], stores: &[&Store]) -> Result<Option<String>> {
        for (name, tensor) in inputs {
            if let Some(at) = bad(tensor) {
                return Ok(Some(format!("input {name:?} {} at element {at}", tensor.ty())));
            }
        }
        let controls = controls(0.0, 0, 0)?;
        // The step that stopped the training may lie back.
        let micro = u64::from(self.design.settings.micro);
        let end = self.stopped.get().map_or(self.runs, |(step, _)| ((step + 1) * micro) as u32);
        let feed = self.feed(&controls, inputs, stores).step(end.wrapping_sub(1), self.seed);
        let plan = self.store.device().prepare(self.design.inspection.clone()).await?;
        plan.run(&feed)?;
        for (number, (step, operand)) in written(&self.design.inspection).into_iter().enumerate() {
            if let Some(at) = bad(&plan.read_operand(operand).await?) {
                let op = step.op.name();
                return Ok(Some(format!("{op} {} at element {at}, value {} of the step", operand.ty, number + 1)));
            }
        }
        Ok(None)
    }

    /// [`first_not_finite`](Self::first_not_finite), waiting on this thread.
    ///
    /// # Errors
    /// As [`first_not_finite`](Self::first_not_finite).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn first_not_finite_blocking(&self, inputs: &[(&str, &Tensor)], stores: &[&Store]) -> Result<Option<String>> {
        pollster::block_on(self.first_not_finite(inputs, stores))
    }
}

/// The float values of a program with the step that leaves them as they are at the end.
fn written(program: &Program) -> Vec<(&Step, &Operand)> {
    let steps = program.steps.iter().enumerate();
    let each: Vec<(usize, &Step, &Operand)> =
        steps.flat_map(|(at, step)| step.outputs.iter().map(move |o| (at, step, o))).collect();
    let last: HashMap<usize, usize> = each.iter().map(|(at, _, o)| (o.buffer, *at)).collect();
    let floats = each.into_iter().filter(|(_, _, o)| o.ty.dtype == DType::F32 && o.numel() > 0);
    floats.filter(|(at, _, o)| last.get(&o.buffer) == Some(at)).map(|(_, step, o)| (step, o)).collect()
}

/// The first element that is infinite or NaN.
fn bad(tensor: &Tensor) -> Option<usize> {
    (tensor.ty().dtype == DType::F32).then(|| tensor.floats().iter().position(|x| !x.is_finite()))?
}
