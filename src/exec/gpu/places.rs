//! When the values of a lowered program live, and where.

use crate::kernels::{Access, Buffer, Dispatch};
use crate::plan::{Apart, Life, Origin, Program, Slots, assign_slots};

/// Lives of computed buffers and temporaries over the dispatches.
pub(super) fn lives<'a>(
    program: &Program,
    dispatches: impl Iterator<Item = &'a Dispatch>,
    temps: &[usize],
) -> Vec<Life> {
    let n = program.buffers.len();
    let mut lives: Vec<Life> = Vec::new();
    for (b, info) in program.buffers.iter().enumerate() {
        let used = matches!(info.origin, Origin::Computed);
        lives.push(Life { key: b, bytes: info.ty.numel() as u64 * 4, first: usize::MAX, last: 0, used });
    }
    for (t, len) in temps.iter().enumerate() {
        lives.push(Life { key: n + t, bytes: *len as u64 * 4, first: usize::MAX, last: 0, used: true });
    }
    let mut end = 0;
    for (d, dispatch) in dispatches.enumerate() {
        end = d + 1;
        for binding in &dispatch.bindings {
            lives[key(n, binding.buffer)].touch(d);
        }
    }
    for (_, operand) in &program.outputs {
        lives[operand.buffer].touch(end);
    }
    lives.retain(|l| l.used && l.first != usize::MAX);
    lives
}

/// Their places in shared slots.
pub fn slots(program: &Program, dispatches: &[Dispatch], temps: &[usize]) -> Slots {
    let (n, mut apart) = (program.buffers.len(), Apart::default());
    for dispatch in dispatches {
        for written in dispatch.bindings.iter().filter(|b| b.access == Access::Write) {
            dispatch.bindings.iter().for_each(|b| apart.keep(key(n, written.buffer), key(n, b.buffer)));
        }
    }
    assign_slots(&lives(program, dispatches.iter(), temps), &apart, program.options.reuse)
}

fn key(buffers: usize, buffer: Buffer) -> usize {
    match buffer {
        Buffer::Program(b) => b,
        Buffer::Temp(t) => buffers + t,
    }
}
