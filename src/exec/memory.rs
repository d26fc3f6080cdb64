//! What a plan's memory holds, slot by slot.

use super::explain::bytes;
use super::{Executor, Plan};
use crate::graph::Call;
use crate::kernels::Buffer;
use crate::plan::{Life, Origin, Program, Slots};
use crate::types::DType;
use std::fmt;
use std::ops::RangeInclusive;

/// A value that lives in a slot.
#[derive(Clone, Debug)]
pub struct Resident {
    /// The operation that writes it; for a temporary the one that needs it.
    pub operation: &'static str,
    /// Its type; absent for a temporary.
    pub ty: Option<crate::types::TensorType>,
    /// The lines that asked for it.
    pub calls: Vec<Call>,
    /// Its size.
    pub bytes: u64,
    /// Bytes of the slot before it.
    pub offset: u64,
    /// From the dispatch (on the CPU executor: step) that writes it to the last that needs it.
    pub lives: RangeInclusive<usize>,
}

/// A buffer shared by values: at different times the same bytes, at the same time side by side.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its size.
    pub bytes: u64,
    /// In the order of their lives.
    pub values: Vec<Resident>,
}

/// What a plan's memory holds ([`Plan::memory`]). Print it for a table.
#[derive(Clone, Debug)]
pub struct MemoryReport {
    /// Slots of computed values.
    pub slots: Vec<Slot>,
    /// Inputs, each with a buffer of its own.
    pub inputs: Vec<(String, u64)>,
    /// States, which live in stores and count for those.
    pub states: Vec<(String, u64)>,
    /// Bytes of constants.
    pub constants: u64,
    /// Bytes that the plan holds on its device, states left out.
    pub held: u64,
    /// Bytes of computed values that live at the same time, at the most: the slots cannot do with less.
    pub least: u64,
    /// The first dispatch (step) at which so many live.
    pub fullest: usize,
}

impl MemoryReport {
    /// Values that live at dispatch (step) `at`, the largest first.
    pub fn alive(&self, at: usize) -> Vec<&Resident> {
        let all = self.slots.iter().flat_map(|s| &s.values);
        let mut alive: Vec<&Resident> = all.filter(|v| v.lives.contains(&at)).collect();
        alive.sort_by_key(|v| std::cmp::Reverse(v.bytes));
        alive
    }
}

fn describe(v: &Resident) -> String {
    let ty = v.ty.as_ref().map_or("temporary".into(), ToString::to_string);
    let place = v.calls.first().map_or(String::new(), |call| format!("  {call}"));
    format!("{:>11}  {:>4}..{:<4} {:<18} {ty}{place}", bytes(v.bytes), v.lives.start(), v.lives.end(), v.operation)
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, slot) in self.slots.iter().enumerate() {
            writeln!(f, "slot{i}: {}", bytes(slot.bytes))?;
            for value in &slot.values {
                writeln!(f, "{}", describe(value))?;
            }
        }
        for (kind, list) in [("input", &self.inputs), ("state", &self.states)] {
            for (name, size) in list {
                writeln!(f, "{kind} {name}: {}", bytes(*size))?;
            }
        }
        writeln!(f, "constants: {}", bytes(self.constants))?;
        let slots: u64 = self.slots.iter().map(|s| s.bytes).sum();
        let states: u64 = self.states.iter().map(|s| s.1).sum();
        writeln!(
            f,
            "{} in {} slots, {} held by the plan, {} of states in stores",
            bytes(slots),
            self.slots.len(),
            bytes(self.held),
            bytes(states)
        )?;
        writeln!(f, "fullest at {}, where {} live:", self.fullest, bytes(self.least))?;
        for value in self.alive(self.fullest).into_iter().take(8) {
            writeln!(f, "{}", describe(value))?;
        }
        Ok(())
    }
}

/// Values by slot. Keys past the program's buffers are temporaries of the steps that `owners` names.
fn filled(program: &Program, lives: &[Life], slots: &Slots, owners: &[usize]) -> Vec<Slot> {
    let mut all: Vec<Slot> = slots.bytes.iter().map(|b| Slot { bytes: *b, values: Vec::new() }).collect();
    for life in lives {
        let Some(place) = slots.of.get(&life.key) else { continue };
        let Some(slot) = all.get_mut(place.slot) else { continue };
        let writer = program.steps.iter().position(|s| s.outputs.iter().any(|o| o.buffer == life.key));
        let temporary = life.key.checked_sub(program.buffers.len());
        let step = temporary.map_or(writer, |t| owners.get(t).copied()).and_then(|s| program.steps.get(s));
        slot.values.push(Resident {
            operation: step.map_or("-", |s| s.op.name()),
            ty: program.buffers.get(life.key).map(|info| info.ty.clone()),
            calls: step.map(|s| s.calls.clone()).unwrap_or_default(),
            bytes: life.bytes,
            offset: place.offset,
            lives: life.first..=life.last,
        });
    }
    all.iter_mut().for_each(|slot| slot.values.sort_by_key(|v| *v.lives.start()));
    all
}

impl Plan {
    /// What the plan's memory holds: which values share which slots, from when to when, and what lives where it is fullest.
    pub fn memory(&self) -> MemoryReport {
        let program = &*self.program;
        let slots = match &self.executor {
            Executor::Gpu(p) => {
                let mut owners = Vec::new();
                for d in p.lowered() {
                    for b in &d.bindings {
                        if let Buffer::Temp(t) = b.buffer {
                            owners.resize(owners.len().max(t + 1), d.step);
                            owners[t] = d.step;
                        }
                    }
                }
                filled(program, &p.lives(), p.slots(), &owners)
            }
            #[cfg(feature = "cpu")]
            _ => {
                let of = |dtype| filled(program, &program.lives(Some(dtype)), &program.slots(Some(dtype)), &[]);
                [DType::F32, DType::U32].into_iter().flat_map(of).collect()
            }
        };
        let (mut inputs, mut states, mut constants) = (Vec::new(), Vec::new(), 0);
        for info in &program.buffers {
            let size = info.ty.numel() as u64 * 4;
            match &info.origin {
                Origin::Input(name) => inputs.push((name.to_string(), size)),
                Origin::State(name) => states.push((name.to_string(), size)),
                Origin::Constant(_) => constants += size,
                Origin::Computed => {}
            }
        }
        let (mut least, mut fullest) = (0, 0);
        let values: Vec<&Resident> = slots.iter().flat_map(|s| &s.values).collect();
        for start in values.iter().map(|v| *v.lives.start()) {
            let alive = values.iter().filter(|v| v.lives.contains(&start)).map(|v| v.bytes).sum();
            if (alive, usize::MAX - start) > (least, usize::MAX - fullest) {
                (least, fullest) = (alive, start);
            }
        }
        MemoryReport { slots, inputs, states, constants, held: self.bytes(), least, fullest }
    }
}
