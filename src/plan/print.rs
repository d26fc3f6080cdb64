//! Printing a program.

use super::{Origin, Program};
use std::fmt;

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
