//! What a plan does, dispatch by dispatch, and what that costs at least.

use super::roofline::Roofline;
use super::{Executor, Plan};
use crate::graph::Call;
use crate::kernels::{Buffer, Dispatch};
use crate::plan::{Program, Step};
use std::fmt;
use std::time::Duration;

/// One dispatch of a plan; on the CPU executor one step.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The lines that asked for it: several if they became one kernel, none for copies that the planner added. Lines of
    /// the library's own models and layers stand for what they are built from.
    pub calls: Vec<Call>,
    /// The operation.
    pub operation: &'static str,
    /// The kernel; "cpu" on the CPU executor.
    pub kernel: String,
    /// Workgroups along x and y; `[0, 0]` on the CPU executor.
    pub workgroups: [u32; 2],
    /// Bytes read and written, each binding counted once. Of a table of which rows are picked, as many rows as are named.
    pub bytes: u64,
    /// Additions, multiplications and functions, estimated from the shapes.
    pub operations: u64,
}

impl Explained {
    /// The first line that asked for it, and how many more.
    pub(crate) fn place(&self) -> String {
        match &self.calls[..] {
            [] => "-".into(),
            [one] => one.to_string(),
            [one, more @ ..] => format!("{one} +{}", more.len()),
        }
    }
}

/// What a plan does ([`Plan::explain`]). Print it for a table.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The device.
    pub device: String,
    /// In the order in which they run.
    pub dispatches: Vec<Explained>,
    /// What the device can do, for the last column.
    pub roofline: Option<Roofline>,
}

impl Explanation {
    /// Adds the column of shortest times on a device that does so much ([`Roofline::measure`]).
    pub fn with(self, roofline: Roofline) -> Explanation {
        Explanation { roofline: Some(roofline), ..self }
    }

    /// The shortest time of a run by the roofline, if there is one.
    pub fn at_least(&self) -> Option<Duration> {
        let roofline = self.roofline?;
        Some(self.dispatches.iter().map(|d| roofline.time(d.bytes, d.operations)).sum())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = self.dispatches.iter().map(|d| d.place().len()).max().unwrap_or(0).clamp(5, 60);
        let head = if self.roofline.is_some() { "at least" } else { "" };
        let line = format!(
            "{:>4}  {:<18} {:<26} {:<wide$} {:>11} {:>8} {:>7} {head:>10}",
            "", "operation", "kernel", "line", "bytes", "op", "op/B"
        );
        writeln!(f, "{}", line.trim_end())?;
        for (i, d) in self.dispatches.iter().enumerate() {
            let least = self.roofline.map(|r| format!("{:.1?}", r.time(d.bytes, d.operations)));
            let line = format!(
                "{i:4}  {:<18} {:<26} {:<wide$} {:>11} {:>8} {:>7.2} {:>10}",
                d.operation,
                d.kernel,
                d.place(),
                bytes(d.bytes),
                count(d.operations as f64),
                d.operations as f64 / d.bytes.max(1) as f64,
                least.unwrap_or_default()
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        let total: u64 = self.dispatches.iter().map(|d| d.bytes).sum();
        let work: u64 = self.dispatches.iter().map(|d| d.operations).sum();
        let n = self.dispatches.len();
        write!(f, "{n} dispatches, {}, {} operations", bytes(total), count(work as f64))?;
        if let (Some(least), Some(roofline)) = (self.at_least(), self.roofline) {
            write!(f, "; at least {least:.1?} at {roofline}")?;
        }
        writeln!(f, "; {}", self.device)
    }
}

/// Bytes in their unit.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=10_485_759 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

/// A number with its unit.
pub(crate) fn count(n: f64) -> String {
    match n {
        n if n < 1e4 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1} k", n / 1e3),
        n if n < 1e9 => format!("{:.1} M", n / 1e6),
        n => format!("{:.1} G", n / 1e9),
    }
}

/// Elements of a buffer of the program that a step touches.
fn touched(step: &Step, buffer: usize) -> usize {
    let inputs = step.inputs.iter().enumerate().filter(|(_, o)| o.buffer == buffer);
    let read: usize = inputs.map(|(i, _)| step.op.touches(i, &step.inputs)).sum();
    let outputs = step.outputs.iter().enumerate().filter(|(_, o)| o.buffer == buffer);
    let write = |(o, operand): (usize, &crate::types::Operand)| match step.op.in_place().iter().find(|p| p.1 == o) {
        Some((input, _)) => step.op.touches(*input, &step.inputs),
        None => operand.numel(),
    };
    read.max(outputs.map(write).sum())
}

/// A step of the CPU executor.
fn on_cpu(program: &Program, step: &Step) -> Explained {
    let mut buffers: Vec<usize> = step.reads().map(|(_, o)| o.buffer).collect();
    buffers.extend(step.outputs.iter().map(|o| o.buffer));
    buffers.sort_unstable();
    buffers.dedup();
    Explained {
        calls: step.calls.clone(),
        operation: step.op.name(),
        kernel: "cpu".into(),
        workgroups: [0, 0],
        // An expanded view has more elements than there are.
        bytes: buffers.into_iter().map(|b| touched(step, b).min(program.buffers[b].ty.numel()) as u64 * 4).sum(),
        operations: step.op.operations(&step.inputs, &step.outputs),
    }
}

/// Bytes that a dispatch binds, as far as its step touches them.
fn bound(step: &Step, dispatch: &Dispatch) -> u64 {
    let one = |b: &crate::kernels::Binding| {
        let all = b.end - b.start;
        match b.buffer {
            Buffer::Program(p) => all.min(touched(step, p)),
            Buffer::Temp(_) => all,
        }
    };
    dispatch.bindings.iter().map(|b| one(b) as u64 * 4).sum()
}

pub(crate) fn of_dispatches<'a>(program: &Program, all: impl Iterator<Item = &'a Dispatch>) -> Vec<Explained> {
    let all: Vec<(&Dispatch, &Step, u64)> =
        all.filter_map(|d| program.steps.get(d.step).map(|s| (d, s, bound(s, d)))).collect();
    let mut sums = vec![0u64; program.steps.len()];
    all.iter().for_each(|(d, _, bytes)| sums[d.step] += bytes);
    let one = |(d, step, bytes): &(&Dispatch, &Step, u64)| {
        // A step of several dispatches: its work in proportion to what they move.
        let work = step.op.operations(&step.inputs, &step.outputs);
        let share = u128::from(work) * u128::from(*bytes) / u128::from(sums[d.step].max(1));
        Explained {
            calls: step.calls.clone(),
            operation: step.op.name(),
            kernel: d.source.name().to_owned(),
            workgroups: d.grid,
            bytes: *bytes,
            operations: share as u64,
        }
    };
    all.iter().map(one).collect()
}

impl Plan {
    /// What each dispatch does: the line of your source that asked for it, kernel, bytes, operations. With a
    /// [`Roofline`] also the shortest time that the device could take.
    ///
    /// ```
    /// # use wgrad::{Device, Graph, TensorType};
    /// # fn main() -> wgrad::Result<()> {
    /// let graph = Graph::new();
    /// let x = graph.input("x", TensorType::f32([8, 8]));
    /// let plan = Device::cpu().compile_blocking(&graph, &[("y", x.matmul(x).exp())])?;
    /// println!("{}", plan.explain());
    /// # assert!(plan.explain().to_string().contains("matmul"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn explain(&self) -> Explanation {
        let dispatches = match &self.executor {
            Executor::Gpu(p) => of_dispatches(&self.program, p.lowered()),
            #[cfg(feature = "cpu")]
            _ => self.program.steps.iter().map(|step| on_cpu(&self.program, step)).collect(),
        };
        Explanation { device: self.device.to_string(), dispatches, roofline: None }
    }
}
