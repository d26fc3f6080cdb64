//! The CPU executor.

use super::{Fed, Feed, Memory};
use crate::device::lock;
use crate::error::{Error, Result};
use crate::graph::Op;
use crate::kernels::{CpuCall, CpuInput, CpuOutput, Slice, SliceMut};
use crate::plan::{Origin, Program};
use crate::types::{DType, Data, Operand, Real, Tensor};
use std::sync::{Arc, Mutex, MutexGuard};

/// A float type the executor runs in.
pub(crate) trait Executed: Real {
    fn call(op: &dyn Op, call: &mut CpuCall<'_, Self>);
    fn state(memory: &Memory) -> Option<MutexGuard<'_, Vec<Self>>>;
}

impl Executed for f32 {
    fn call(op: &dyn Op, call: &mut CpuCall<'_, f32>) {
        op.cpu_f32(call);
    }
    fn state(memory: &Memory) -> Option<MutexGuard<'_, Vec<f32>>> {
        if let Memory::F32(m) = memory { Some(lock(m)) } else { None }
    }
}

impl Executed for f64 {
    fn call(op: &dyn Op, call: &mut CpuCall<'_, f64>) {
        op.cpu_f64(call);
    }
    fn state(memory: &Memory) -> Option<MutexGuard<'_, Vec<f64>>> {
        if let Memory::F64(m) = memory { Some(lock(m)) } else { None }
    }
}

#[derive(Default)]
enum Cell<T> {
    Float(Vec<T>),
    Int(Vec<u32>),
    #[default]
    Taken,
}

pub(crate) struct CpuPlan<T> {
    program: Arc<Program>,
    /// Cell of each buffer.
    place: Vec<usize>,
    cells: Mutex<Vec<Cell<T>>>,
    pub bytes: u64,
}

impl<T: Executed> CpuPlan<T> {
    pub fn new(program: Arc<Program>) -> Self {
        let floats = program.slots(Some(DType::F32));
        let ints = program.slots(Some(DType::U32));
        let mut cells: Vec<Cell<T>> = Vec::new();
        cells.extend(floats.bytes.iter().map(|b| Cell::Float(vec![T::ZERO; *b as usize / 4])));
        cells.extend(ints.bytes.iter().map(|b| Cell::Int(vec![0; *b as usize / 4])));
        let mut place = Vec::with_capacity(program.buffers.len());
        for (b, info) in program.buffers.iter().enumerate() {
            let shared = floats.of.get(&b).copied().or(ints.of.get(&b).map(|s| floats.bytes.len() + s));
            place.push(shared.unwrap_or(cells.len()));
            if shared.is_some() {
                continue;
            }
            cells.push(match &info.origin {
                Origin::Constant(data) => match data.data() {
                    Data::F32(v) => Cell::Float(v.iter().map(|x| T::of(f64::from(*x))).collect()),
                    Data::U32(v) => Cell::Int(v.clone()),
                },
                Origin::Input(_) | Origin::Computed if info.ty.dtype == DType::F32 => {
                    Cell::Float(vec![T::ZERO; info.ty.numel()])
                }
                Origin::Input(_) | Origin::Computed => Cell::Int(vec![0; info.ty.numel()]),
                Origin::State(_) => Cell::Taken,
            });
        }
        let size = |c: &Cell<T>| match c {
            Cell::Float(v) => std::mem::size_of_val(&v[..]) as u64,
            Cell::Int(v) => 4 * v.len() as u64,
            Cell::Taken => 0,
        };
        let bytes = cells.iter().map(size).sum();
        CpuPlan { program, place, cells: Mutex::new(cells), bytes }
    }

    pub fn run(&self, feed: &Feed<'_>) -> Result<()> {
        // Everything is checked before anything changes.
        let mut states = Vec::new();
        let mut inputs = Vec::new();
        for (b, info) in self.program.buffers.iter().enumerate() {
            match &info.origin {
                Origin::State(name) => states.push((b, feed.state(name, &info.ty)?)),
                Origin::Input(name) => inputs.push((b, feed.find(name, &info.ty)?)),
                _ => {}
            }
        }
        // One order for all plans, so that two of them cannot wait for each other.
        states.sort_by_key(|(_, state)| state.id);
        let mut cells = lock(&self.cells);
        for (b, fed) in inputs {
            match (&mut cells[self.place[b]], fed) {
                (Cell::Float(v), Fed::Double(d)) => v.iter_mut().zip(d).for_each(|(v, d)| *v = T::of(*d)),
                (Cell::Float(v), Fed::Tensor(t)) => {
                    v.iter_mut().zip(t.floats()).for_each(|(v, d)| *v = T::of(f64::from(*d)));
                }
                (Cell::Int(v), Fed::Tensor(t)) => v.copy_from_slice(t.ints()),
                _ => {}
            }
        }
        // States are moved in for the run and back at its end.
        let mut floats = Vec::new();
        let mut ints = Vec::new();
        for (b, state) in &states {
            let cell = &mut cells[self.place[*b]];
            match &state.memory {
                Memory::U32(m) => {
                    let mut guard = lock(m);
                    *cell = Cell::Int(std::mem::take(&mut guard));
                    ints.push((*b, guard));
                }
                memory => {
                    let Some(mut guard) = T::state(memory) else {
                        return Err(Error::argument("run", "a state lives on another device than the plan"));
                    };
                    *cell = Cell::Float(std::mem::take(&mut guard));
                    floats.push((*b, guard));
                }
            }
        }
        for step in &self.program.steps {
            self.step(step, &mut cells, feed);
        }
        for (b, mut guard) in floats {
            if let Cell::Float(v) = std::mem::take(&mut cells[self.place[b]]) {
                *guard = v;
            }
        }
        for (b, mut guard) in ints {
            if let Cell::Int(v) = std::mem::take(&mut cells[self.place[b]]) {
                *guard = v;
            }
        }
        Ok(())
    }

    fn step(&self, step: &crate::plan::Step, cells: &mut [Cell<T>], feed: &Feed<'_>) {
        // Output cells are taken out, so that inputs can be borrowed beside them.
        let mut taken: Vec<Cell<T>> =
            step.outputs.iter().map(|o| std::mem::take(&mut cells[self.place[o.buffer]])).collect();
        {
            let inputs = step
                .inputs
                .iter()
                .map(|o| CpuInput {
                    shape: &o.ty.shape,
                    layout: &o.layout,
                    data: match &cells[self.place[o.buffer]] {
                        Cell::Float(v) => Slice::Float(&v[..]),
                        Cell::Int(v) => Slice::Int(&v[..]),
                        Cell::Taken if o.ty.dtype == DType::F32 => Slice::Float(&[]),
                        Cell::Taken => Slice::Int(&[]),
                    },
                })
                .collect();
            let outputs = step
                .outputs
                .iter()
                .zip(&mut taken)
                .map(|(o, cell)| CpuOutput {
                    shape: &o.ty.shape,
                    data: match cell {
                        Cell::Float(v) => SliceMut::Float(&mut v[..o.ty.numel()]),
                        Cell::Int(v) => SliceMut::Int(&mut v[..o.ty.numel()]),
                        Cell::Taken => SliceMut::Int(&mut []),
                    },
                })
                .collect();
            let mut call = CpuCall { inputs, outputs, step: feed.step, seed: feed.seed };
            if step.outputs.iter().any(|o| o.ty.numel() > 0) {
                T::call(step.op.as_ref(), &mut call);
            }
        }
        for (o, cell) in step.outputs.iter().zip(taken) {
            cells[self.place[o.buffer]] = cell;
        }
    }

    pub fn read(&self, operand: &Operand) -> Result<Tensor> {
        let cells = lock(&self.cells);
        let range = operand.layout.offset..operand.layout.offset + operand.numel();
        let data = match &cells[self.place[operand.buffer]] {
            Cell::Float(v) => Data::F32(v[range].iter().map(|x| x.f64() as f32).collect()),
            Cell::Int(v) => Data::U32(v[range].to_vec()),
            Cell::Taken => {
                return Err(Error::argument("read", "a state is read through its store"));
            }
        };
        Tensor::new(operand.ty.shape.clone(), data)
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_raw(&self, operand: &Operand) -> Result<Vec<f64>> {
        let cells = lock(&self.cells);
        let range = operand.layout.offset..operand.layout.offset + operand.numel();
        match &cells[self.place[operand.buffer]] {
            Cell::Float(v) => Ok(v[range].iter().map(|x| x.f64()).collect()),
            Cell::Int(v) => Ok(v[range].iter().map(|x| f64::from(*x)).collect()),
            Cell::Taken => Err(Error::argument("read", "a state is read through its store")),
        }
    }
}
