//! From a graph to a program both executors run: dead code and common subexpressions removed, elementwise chains fused,
//! views resolved, state updates ordered, memory planned.
//!
//! ```
//! use wgrad::plan::Program;
//! use wgrad::{Graph, Options, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.input("x", TensorType::f32([64, 64]));
//! let y = (x * 2.0 + 1.0).tanh().exp(); // four operations, one kernel
//! let program = Program::build(&graph, &[("y", y)], Options::default())?;
//! assert_eq!(program.steps.len(), 1);
//! println!("{program}"); // steps, slots of memory, peak bytes
//! # Ok(())
//! # }
//! ```

mod build;
mod fuse;
mod memory;
mod print;
mod simplify;

pub use memory::Place;
pub use memory::Slots;
pub(crate) use memory::{Apart, Life, assign_slots};

use crate::error::Result;
use crate::graph::{Call, Graph, SharedOp, Var};
use crate::trace::span;
use crate::types::{DType, Operand, Tensor, TensorType};
use std::sync::Arc;

/// What compiling may do. The defaults are right for use; tests switch parts off to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Fuse elementwise chains into one kernel.
    pub fuse: bool,
    /// Let values that do not live at the same time share memory.
    pub reuse: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { fuse: true, reuse: true }
    }
}

/// Where a buffer's contents come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Written before each run.
    Input(Arc<str>),
    /// Lives in a store.
    State(Arc<str>),
    /// Fixed at compile time.
    Constant(Arc<Tensor>),
    /// Written by a step.
    Computed,
}

/// A buffer of the program.
#[derive(Clone, Debug)]
pub struct BufferInfo {
    /// Where its contents come from.
    pub origin: Origin,
    /// Type of the whole buffer.
    pub ty: TensorType,
}

/// One operation to run.
#[derive(Clone, Debug)]
pub struct Step {
    /// The operation.
    pub op: SharedOp,
    /// What it reads.
    pub inputs: Vec<Operand>,
    /// What it writes, dense from the start of their buffers.
    pub outputs: Vec<Operand>,
    /// Who asked for it: several lines if calls were fused, none for what the planner added.
    pub calls: Vec<Call>,
}

impl Step {
    /// Inputs that are really read: not those that share a buffer with an output.
    pub fn reads(&self) -> impl Iterator<Item = (usize, &Operand)> {
        let shared = self.op.in_place();
        self.inputs.iter().enumerate().filter(move |(i, _)| !shared.iter().any(|(input, _)| input == i))
    }
}

/// A program: buffers and steps in order. The same for every executor.
#[derive(Clone, Debug)]
pub struct Program {
    /// All buffers.
    pub buffers: Vec<BufferInfo>,
    /// All steps.
    pub steps: Vec<Step>,
    /// Named results.
    pub outputs: Vec<(String, Operand)>,
    /// The gate of state updates, if there is one.
    pub gate: Option<Operand>,
    /// Peak bytes of computed values if nothing were recomputed; `None` without recomputed segments.
    pub peak_without_recomputation: Option<u64>,
    /// The options it was built with.
    pub options: Options,
}

impl Program {
    /// Builds the program that computes `outputs` and the graph's state updates.
    ///
    /// # Errors
    /// The first error that the graph keeps, such as [`Error::Shape`](crate::Error::Shape);
    /// [`Error::Name`](crate::Error::Name) for an output that is given twice or is of another graph.
    pub fn build(graph: &Graph, outputs: &[(&str, Var<'_>)], options: Options) -> Result<Program> {
        if let Some(error) = graph.error() {
            return Err(error);
        }
        span!(DEBUG, "plan", nodes = graph.len(), outputs = outputs.len()).in_scope(|| {
            let mut program = build::build(graph, outputs, options, false)?;
            if graph.borrow().nodes.iter().any(|n| n.copy != 0) {
                let kept = build::build(graph, outputs, options, true)?;
                program.peak_without_recomputation = Some(kept.slots(None).peak);
            }
            Ok(program)
        })
    }

    /// Bytes in and out of steps: all that they read and write, each input and output once and whole. Fusion is there to
    /// make it less.
    pub fn moved(&self) -> u64 {
        let operands = |step: &Step| -> usize {
            let read: usize = step.reads().map(|(_, input)| input.numel()).sum();
            read + step.outputs.iter().map(Operand::numel).sum::<usize>()
        };
        4 * self.steps.iter().map(|step| operands(step) as u64).sum::<u64>()
    }

    /// What computes `outputs`, or without any what states are given, with every value in memory of its own and no state
    /// changed. The graph has no error.
    pub(crate) fn inspection(graph: &Graph, outputs: &[Var<'_>]) -> Program {
        build::inspection(graph, outputs)
    }

    fn empty(options: Options) -> Program {
        Program {
            buffers: Vec::new(),
            steps: Vec::new(),
            outputs: Vec::new(),
            gate: None,
            peak_without_recomputation: None,
            options,
        }
    }

    /// Lifetimes of computed buffers over the steps, and their places in shared slots. With `dtype`, only buffers of that
    /// element type share.
    pub fn slots(&self, dtype: Option<DType>) -> Slots {
        let mut apart = Apart::default();
        for step in &self.steps {
            for written in &step.outputs {
                step.inputs.iter().chain(&step.outputs).for_each(|o| apart.keep(written.buffer, o.buffer));
            }
        }
        assign_slots(&self.lives(dtype), &apart, self.options.reuse)
    }

    /// Lifetimes of computed buffers over the steps.
    pub(crate) fn lives(&self, dtype: Option<DType>) -> Vec<Life> {
        let mut lives: Vec<Life> = Vec::new();
        for (b, info) in self.buffers.iter().enumerate() {
            let counts = matches!(info.origin, Origin::Computed) && dtype.is_none_or(|d| d == info.ty.dtype);
            let bytes = if counts { info.ty.numel() as u64 * 4 } else { 0 };
            lives.push(Life { key: b, bytes, first: usize::MAX, last: 0, used: counts });
        }
        for (s, step) in self.steps.iter().enumerate() {
            for operand in step.inputs.iter().chain(&step.outputs) {
                lives[operand.buffer].touch(s);
            }
        }
        for (_, operand) in &self.outputs {
            lives[operand.buffer].touch(self.steps.len());
        }
        if let Some(gate) = &self.gate {
            lives[gate.buffer].touch(self.steps.len());
        }
        lives.retain(|l| l.used && l.first != usize::MAX);
        lives
    }
}
