//! Emits the steps of a program in the order of the tape.

use super::fuse::Groups;
use super::simplify::{Simplified, simplify};
use super::{BufferInfo, Options, Origin, Program, Step};
use crate::error::{Error, Result};
use crate::graph::{Call, Graph, Kind, SharedOp, Value, Var};
use crate::ops::assign::Assign;
use crate::ops::view::View;
use crate::types::{Layout, Operand, TensorType};
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

/// Elements to which dense inputs are aligned: 256 bytes, the portable alignment of bindings.
const ALIGN: usize = 64;

struct Builder {
    program: Program,
    operands: FxHashMap<Value, Operand>,
    dense: Vec<(Operand, Operand)>,
    /// Who asked for what is being emitted.
    calls: Vec<Call>,
}

impl Builder {
    fn new(options: Options) -> Builder {
        let program = Program::empty(options);
        Builder { program, operands: FxHashMap::default(), dense: Vec::new(), calls: Vec::new() }
    }
}

pub(super) fn build(
    graph: &Graph,
    outputs: &[(&str, Var<'_>)],
    options: Options,
    merge_copies: bool,
) -> Result<Program> {
    let foreign = outputs.iter().find(|(_, v)| !v.graph().same(graph));
    if let Some((name, _)) = foreign {
        return Err(Error::Name {
            kind: "output",
            name: (*name).to_owned(),
            message: "the variable belongs to another graph; compile the graph it was built in".into(),
        });
    }
    let mut names: FxHashSet<&str> = FxHashSet::default();
    if let Some((name, _)) = outputs.iter().find(|(name, _)| !names.insert(name)) {
        return Err(Error::Name {
            kind: "output",
            name: (*name).to_owned(),
            message: "given twice; give every output its own name".into(),
        });
    }
    let inner = graph.borrow();
    let mut roots: Vec<Value> = outputs.iter().map(|(_, v)| v.value).collect();
    roots.extend(inner.assigns.iter().flat_map(|(state, value)| [*state, *value]));
    roots.extend(inner.gate);
    let simple = simplify(&inner.nodes, &roots, merge_copies);
    let external: Vec<Value> = roots.iter().map(|v| simple.value(*v)).collect();
    let groups = Groups::find(&simple.nodes, &external, options.fuse);
    let mut b = Builder::new(options);
    b.nodes(&simple, &groups);
    if let Some(gate) = inner.gate {
        // Assignments must not change the gate while they read it.
        let gate = b.operand(simple.value(gate));
        b.program.gate = Some(b.kept(gate));
    }
    for (name, var) in outputs {
        let operand = b.operand(simple.value(var.value));
        // An output shows the value that the run saw, also if the state changes at its end or the input is the caller's buffer.
        let operand = if b.is_input(&operand) { b.copy(&operand) } else { b.kept(operand) };
        b.program.outputs.push((name.to_string(), operand));
    }
    let assigns: Vec<(Value, Value)> =
        inner.assigns.iter().map(|(s, v)| (simple.value(*s), simple.value(*v))).collect();
    b.assigns(&assigns);
    b.sweep();
    Ok(b.program)
}

/// What a run computes, each value in memory of its own, and no state changed: for looking at afterwards. Without outputs,
/// what leads to the values that states get.
pub(super) fn inspection(graph: &Graph, outputs: &[Var<'_>]) -> Program {
    let inner = graph.borrow();
    let mut roots: Vec<Value> = outputs.iter().map(|v| v.value).collect();
    if roots.is_empty() {
        roots.extend(inner.assigns.iter().map(|(_, value)| *value));
    }
    let simple = simplify(&inner.nodes, &roots, true);
    let options = Options { fuse: false, reuse: false };
    let roots: Vec<Value> = roots.iter().map(|v| simple.value(*v)).collect();
    let groups = Groups::find(&simple.nodes, &roots, options.fuse);
    let mut b = Builder::new(options);
    b.nodes(&simple, &groups);
    for (i, root) in roots.into_iter().enumerate() {
        let operand = b.operand(root);
        let operand = b.kept(operand);
        b.program.outputs.push((i.to_string(), operand));
    }
    b.sweep();
    b.program
}

impl Builder {
    fn nodes(&mut self, simple: &Simplified, groups: &Groups) {
        for (i, node) in simple.nodes.iter().enumerate() {
            self.calls = groups.calls(&simple.nodes, i);
            let value = Value { node: crate::graph::NodeId(i as u32), output: 0 };
            let origin = match &node.kind {
                Kind::Input(name) => Origin::Input(name.clone()),
                Kind::State(name) => Origin::State(name.clone()),
                Kind::Constant(data) => Origin::Constant(data.clone()),
                Kind::Op(op) if op.is_view() => {
                    self.view(op, value, node.inputs[0], &node.types[0]);
                    continue;
                }
                Kind::Op(op) => {
                    if groups.inner(i) {
                        continue;
                    }
                    match groups.program(&simple.nodes, i) {
                        Some((fused, inputs)) => self.step(Arc::new(fused), &inputs, value, &node.types),
                        None => self.step(op.clone(), &node.inputs, value, &node.types),
                    }
                    continue;
                }
            };
            let operand = self.buffer(origin, &node.types[0]);
            self.operands.insert(value, operand);
        }
        self.calls.clear();
    }

    fn push(&mut self, op: SharedOp, inputs: Vec<Operand>, outputs: Vec<Operand>) {
        self.program.steps.push(Step { op, inputs, outputs, calls: self.calls.clone() });
    }

    fn buffer(&mut self, origin: Origin, ty: &TensorType) -> Operand {
        self.program.buffers.push(BufferInfo { origin, ty: ty.clone() });
        let buffer = self.program.buffers.len() - 1;
        Operand { buffer, ty: ty.clone(), layout: Layout::contiguous(&ty.shape) }
    }

    fn operand(&self, value: Value) -> Operand {
        self.operands[&value].clone()
    }

    fn view(&mut self, op: &SharedOp, value: Value, input: Value, ty: &TensorType) {
        let source = self.operand(input);
        let operand = match op.view(&source.ty, &source.layout) {
            Some(layout) => Operand { buffer: source.buffer, ty: ty.clone(), layout },
            None => {
                let dense = self.made_dense(source);
                let layout = op.view(&dense.ty, &dense.layout).unwrap_or_else(|| Layout::contiguous(&ty.shape));
                Operand { buffer: dense.buffer, ty: ty.clone(), layout }
            }
        };
        self.operands.insert(value, operand);
    }

    /// The operand with its elements in row-major order from an aligned place, copied if need be.
    fn made_dense(&mut self, operand: Operand) -> Operand {
        if operand.is_dense() && operand.layout.offset.is_multiple_of(ALIGN) {
            return operand;
        }
        if let Some((_, dense)) = self.dense.iter().find(|(source, _)| *source == operand) {
            return dense.clone();
        }
        let copy = self.copy(&operand);
        self.dense.push((operand, copy.clone()));
        copy
    }

    /// The operand dense, in memory that no assignment of this run changes.
    fn kept(&mut self, operand: Operand) -> Operand {
        if self.is_state(&operand) { self.copy(&operand) } else { self.made_dense(operand) }
    }

    fn copy(&mut self, operand: &Operand) -> Operand {
        let copy = self.buffer(Origin::Computed, &operand.ty);
        let op = Arc::new(View::Reshape(operand.ty.shape.clone()));
        self.push(op, vec![operand.clone()], vec![copy.clone()]);
        copy
    }

    fn step(&mut self, op: SharedOp, inputs: &[Value], value: Value, types: &[TensorType]) {
        let mut operands: Vec<Operand> = inputs.iter().map(|v| self.operand(*v)).collect();
        for (i, operand) in operands.iter_mut().enumerate() {
            if !op.strided(i) {
                *operand = self.made_dense(operand.clone());
            }
        }
        let outputs: Vec<Operand> = types.iter().map(|t| self.buffer(Origin::Computed, t)).collect();
        for (i, o) in op.in_place() {
            // Start from a copy; it disappears below if the old value is not needed any more.
            let copy = Arc::new(View::Reshape(operands[*i].ty.shape.clone()));
            self.push(copy, vec![operands[*i].clone()], vec![outputs[*o].clone()]);
        }
        for (o, operand) in outputs.iter().enumerate() {
            self.operands.insert(Value { output: o as u32, ..value }, operand.clone());
        }
        self.push(op, operands, outputs);
    }

    fn is_state(&self, operand: &Operand) -> bool {
        matches!(self.program.buffers[operand.buffer].origin, Origin::State(_))
    }

    fn is_input(&self, operand: &Operand) -> bool {
        matches!(self.program.buffers[operand.buffer].origin, Origin::Input(_))
    }

    fn assigns(&mut self, assigns: &[(Value, Value)]) {
        let mut pairs: Vec<(Operand, Operand)> =
            assigns.iter().map(|(s, v)| (self.operand(*s), self.operand(*v))).collect();
        pairs.retain(|(state, value)| state != value);
        // Values that are views of a state would see other assigns: copy them first.
        for (_, value) in &mut pairs {
            *value = self.kept(value.clone());
        }
        for i in 0..pairs.len() {
            let (state, value) = pairs[i].clone();
            if !self.write_through(&state, &value) {
                continue;
            }
            // Another state may be assigned the same value: it finds it in this one's buffer.
            let gate = self.program.gate.iter_mut();
            for operand in pairs.iter_mut().map(|(_, v)| v).chain(gate) {
                if operand.buffer == value.buffer {
                    operand.buffer = state.buffer;
                }
            }
            pairs[i].1 = state;
        }
        for (state, value) in pairs.into_iter().filter(|(state, value)| state != value) {
            let mut inputs = vec![state.clone(), value];
            inputs.extend(self.program.gate.clone());
            let op = Arc::new(Assign { gated: inputs.len() == 3 });
            self.push(op, inputs, vec![state]);
        }
    }

    /// Lets the step that computes `value` write into the state's own buffer, if nothing looks at the new value after the
    /// run, and either nothing reads the old value at or after that step and no gate must be minded that the operation
    /// does not mind itself, or the step can wait until the old value has been read and the gate is known.
    fn write_through(&mut self, state: &Operand, value: &Operand) -> bool {
        let info = &self.program.buffers[value.buffer];
        let whole = value.layout.offset == 0
            && matches!(info.origin, Origin::Computed)
            && value.numel() == info.ty.numel()
            && state.numel() > 0;
        // An output is read from its own buffer.
        let kept = |b: usize| self.program.outputs.iter().any(|(_, o)| o.buffer == b);
        let writes = |s: &Step| s.outputs.iter().any(|o| o.buffer == value.buffer);
        let found = self.program.steps.iter().rposition(writes);
        let Some(mut at) = found.filter(|_| whole && !kept(value.buffer)) else {
            return false;
        };
        let step = &self.program.steps[at];
        let in_place = step
            .op
            .in_place()
            .iter()
            .any(|(i, o)| step.outputs[*o].buffer == value.buffer && step.inputs[*i].buffer == state.buffer);
        let read_later = self.program.steps[at..].iter().any(|s| s.reads().any(|(_, o)| o.buffer == state.buffer));
        let gated = self.program.gate.is_some() && !(in_place && step.op.minds_gate());
        if read_later || gated {
            if !in_place || !self.postpone(at, state.buffer) {
                return false;
            }
            at = self.program.steps.len() - 1;
        }
        let steps = &self.program.steps;
        if let Some(copy) = steps[..at].iter().rposition(writes) {
            // An operation in place starts from a copy; it must be one of the whole state as it lies.
            let source = &steps[copy].inputs[0];
            let plain = source.buffer == state.buffer && source.is_dense();
            if !in_place || !plain || source.numel() != state.numel() {
                return false;
            }
            self.program.steps.remove(copy);
        }
        for step in &mut self.program.steps {
            for operand in step.inputs.iter_mut().chain(&mut step.outputs) {
                if operand.buffer == value.buffer {
                    operand.buffer = state.buffer;
                }
            }
        }
        true
    }

    /// Moves an update in place behind all other steps, with the gate as an input if it does not mind it yet. It must be
    /// all that needs its result, and find its inputs unchanged there.
    fn postpone(&mut self, at: usize, state: usize) -> bool {
        let steps = &self.program.steps;
        let step = &steps[at];
        let [output] = &step.outputs[..] else {
            return false;
        };
        let after = &steps[at + 1..];
        let needed = after.iter().any(|s| s.reads().any(|(_, o)| o.buffer == output.buffer))
            || self.program.gate.as_ref().is_some_and(|gate| gate.buffer == output.buffer);
        let lost = |b: usize| b == state || after.iter().any(|s| s.outputs.iter().any(|o| o.buffer == b));
        if needed || step.reads().any(|(_, input)| lost(input.buffer)) {
            return false;
        }
        let mut step = step.clone();
        if let Some(gate) = self.program.gate.clone().filter(|_| !step.op.minds_gate()) {
            let Some(op) = step.op.with_gate() else {
                return false;
            };
            step.op = op;
            step.inputs.push(gate);
        }
        self.program.steps.remove(at);
        self.program.steps.push(step);
        true
    }

    /// Removes steps whose results nothing reads: constants that were written into every kernel that uses them.
    fn sweep(&mut self) {
        let program = &mut self.program;
        let states = |info: &BufferInfo| matches!(info.origin, Origin::State(_));
        let mut needed: Vec<bool> = program.buffers.iter().map(states).collect();
        let kept = program.outputs.iter().map(|(_, o)| o);
        kept.chain(&program.gate).for_each(|o| needed[o.buffer] = true);
        let mut keep = vec![false; program.steps.len()];
        for (i, step) in program.steps.iter().enumerate().rev() {
            keep[i] = step.outputs.iter().any(|o| needed[o.buffer]);
            if keep[i] {
                step.inputs.iter().for_each(|o| needed[o.buffer] = true);
                // What is updated in place starts from its copy, even if only another result of the step is asked for.
                step.op.in_place().iter().for_each(|(_, o)| needed[step.outputs[*o].buffer] = true);
            }
        }
        let mut keep = keep.into_iter();
        program.steps.retain(|_| keep.next().unwrap_or(true));
    }
}
