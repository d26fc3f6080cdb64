//! Printing a plan: its dispatches, slots and sums.

use super::GpuPlan;
use crate::kernels::Buffer;
use crate::plan::Origin;
use std::fmt;

impl fmt::Display for GpuPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.program.buffers.len();
        for (i, r) in self.ready.iter().enumerate() {
            let d = &r.dispatch;
            let name = |b: &crate::kernels::Binding| match b.buffer {
                Buffer::Program(p) => match &self.program.buffers[p].origin {
                    Origin::Input(name) => format!("input:{name}"),
                    Origin::State(name) => format!("state:{name}"),
                    Origin::Constant(_) => format!("const:{p}"),
                    Origin::Computed => self.slots.of.get(&p).copied().unwrap_or_default().to_string(),
                },
                Buffer::Temp(t) => {
                    format!("{} (temporary)", self.slots.of.get(&(n + t)).copied().unwrap_or_default())
                }
            };
            let bindings: Vec<String> = d.bindings.iter().map(name).collect();
            writeln!(
                f,
                "{i:4}  {:<18} {:<22} [{}, {}] {}",
                d.label,
                d.source.name(),
                d.grid[0],
                d.grid[1],
                bindings.join(", ")
            )?;
        }
        let mut pipelines: Vec<&wgpu::ComputePipeline> = Vec::new();
        for r in &self.ready {
            if !pipelines.contains(&&r.pipeline) {
                pipelines.push(&r.pipeline);
            }
        }
        for (s, bytes) in self.slots.bytes.iter().enumerate() {
            writeln!(f, "slot{s}: {bytes} bytes")?;
        }
        writeln!(f, "{} bytes in and out of steps", self.program.moved())?;
        writeln!(
            f,
            "{} dispatches, {} pipelines, {} temporaries, {} slots, peak {} bytes (at least {}; {} without sharing)",
            self.ready.len(),
            pipelines.len(),
            self.temps.len(),
            self.slots.bytes.len(),
            self.slots.peak,
            self.slots.least,
            self.slots.unshared
        )?;
        if let Some(peak) = self.program.peak_without_recomputation {
            writeln!(f, "peak without recomputation {peak} bytes")?;
        }
        Ok(())
    }
}
