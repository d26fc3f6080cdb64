//! Printing a program.

use super::{Origin, Program};
use crate::types::TensorType;
use std::fmt;

impl Program {
    /// Hands over all that decides what a run computes: equal in every process that builds the same program.
    pub(crate) fn describe(&self, put: &mut dyn FnMut(&[u8])) {
        for info in &self.buffers {
            put(match &info.origin {
                Origin::Input(name) => format!("input {name:?} {}", info.ty),
                Origin::State(name) => format!("state {name:?} {}", info.ty),
                Origin::Constant(_) => format!("constant {}", info.ty),
                Origin::Computed => format!("computed {}", info.ty),
            }
            .as_bytes());
            if let Origin::Constant(tensor) = &info.origin {
                put(tensor.data().bytes());
            }
        }
        for step in &self.steps {
            let attributes = step.op.attributes();
            put(format!("{} {attributes} {:?} {:?}", step.op.name(), step.inputs, step.outputs).as_bytes());
        }
        put(format!("{:?} {:?}", self.outputs, self.gate).as_bytes());
    }

    /// What is written before each run.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (&str, &TensorType)> {
        self.buffers.iter().filter_map(|info| match &info.origin {
            Origin::Input(name) => Some((&**name, &info.ty)),
            _ => None,
        })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.slots(None);
        for (i, step) in self.steps.iter().enumerate() {
            let name = |b: usize| match &self.buffers[b].origin {
                Origin::Input(n) => format!("input:{n}"),
                Origin::State(n) => format!("state:{n}"),
                Origin::Constant(_) => format!("const:{b}"),
                Origin::Computed => slots.of.get(&b).map_or_else(|| format!("%{b}"), |place| place.to_string()),
            };
            let inputs: Vec<String> = step.reads().map(|(_, o)| format!("{} {}", name(o.buffer), o.ty)).collect();
            let outputs: Vec<String> = step.outputs.iter().map(|o| format!("{} {}", name(o.buffer), o.ty)).collect();
            writeln!(f, "{i:4}  {:<18} {} -> {}", step.op.name(), inputs.join(", "), outputs.join(", "))?;
        }
        for (s, bytes) in slots.bytes.iter().enumerate() {
            writeln!(f, "slot{s}: {bytes} bytes")?;
        }
        writeln!(f, "{} bytes in and out of steps", self.moved())?;
        writeln!(
            f,
            "{} steps, {} slots, peak {} bytes (at least {}; {} without sharing)",
            self.steps.len(),
            slots.bytes.len(),
            slots.peak,
            slots.least,
            slots.unshared
        )?;
        if let Some(peak) = self.peak_without_recomputation {
            writeln!(f, "peak without recomputation {peak} bytes")?;
        }
        Ok(())
    }
}
