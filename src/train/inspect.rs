//! Where a number that is none came from.

use super::trainer::Trainer;
use crate::error::Result;
use crate::exec::{Feed, Store};
use crate::plan::{Program, Step};
use crate::types::{DType, Operand, Tensor};
use std::collections::HashMap;

impl Trainer {
    /// Which value of the last batch, in the order of the computation, was the first with an infinity or a NaN: an input by its
    /// name, else an operation with type and place of what it computed. For a step of which [`loss`](Self::loss) says
    /// [`NotFinite`](crate::Error::NotFinite): such a step changed nothing, so it can be done again, with the same inputs and
    /// stores.
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
        let controls = Self::controls(0.0, 0)?;
        let mut feed = Feed::new().store(&self.store).step(self.runs.wrapping_sub(1), self.seed);
        for store in stores {
            feed = feed.store(store);
        }
        for (name, tensor) in controls.iter().map(|(name, tensor)| (*name, tensor)).chain(inputs.iter().copied()) {
            feed = feed.input(name, tensor);
        }
        let plan = self.apply.device().prepare(self.inspection.clone()).await?;
        plan.run(&feed)?;
        for (number, (step, operand)) in written(&self.inspection).into_iter().enumerate() {
            if let Some(at) = bad(&plan.read_operand(operand).await?) {
                let op = step.op.name();
                return Ok(Some(format!("{op} {} at element {at}, value {} of the step", operand.ty, number + 1)));
            }
        }
        Ok(None)
    }

    /// [`first_not_finite`](Self::first_not_finite), waiting on this thread.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn first_not_finite_blocking(&self, inputs: &[(&str, &Tensor)], stores: &[&Store]) -> Result<Option<String>> {
        pollster::block_on(self.first_not_finite(inputs, stores))
    }
}

/// The float values of a program with the step that leaves them as they are at the end.
fn written(program: &Program) -> Vec<(&Step, &Operand)> {
    let each = || program.steps.iter().flat_map(|step| step.outputs.iter().map(move |o| (step, o)));
    let last: HashMap<usize, *const Step> = each().map(|(step, o)| (o.buffer, std::ptr::from_ref(step))).collect();
    let floats = each().filter(|(_, o)| o.ty.dtype == DType::F32 && o.numel() > 0);
    floats.filter(|(step, o)| last.get(&o.buffer).is_some_and(|l| std::ptr::eq(*l, *step))).collect()
}

/// The first element that is infinite or NaN.
fn bad(tensor: &Tensor) -> Option<usize> {
    (tensor.ty().dtype == DType::F32).then(|| tensor.floats().iter().position(|x| !x.is_finite()))?
}
