//! The CPU executor.

use super::{Fed, Feed, Memory};
use crate::device::{clock::now, lock};
use crate::error::{Error, Result};
use crate::graph::Op;
use crate::kernels::{CpuCall, CpuInput, CpuOutput, Slice, SliceMut, par};
use crate::plan::{Origin, Program};
use crate::types::{DType, Data, Operand, Real, Tensor};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A float type the executor runs in.
pub(crate) trait Executed: Real {
    fn call(op: &dyn Op, call: &mut CpuCall<'_, Self>);
    fn state(memory: &Memory) -> Option<MutexGuard<'_, Vec<Self>>>;
}

#[cfg(feature = "cpu")]
impl Executed for f32 {
    fn call(op: &dyn Op, call: &mut CpuCall<'_, f32>) {
        op.cpu_f32(call);
    }
    fn state(memory: &Memory) -> Option<MutexGuard<'_, Vec<f32>>> {
        if let Memory::F32(m) = memory { Some(lock(m)) } else { None }
    }
}

#[cfg(feature = "oracle")]
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

/// `n` zeros, or [`Error::OutOfMemory`].
pub(super) fn zeros<E: Clone>(n: usize, zero: E) -> Result<Vec<E>> {
    let mut v = Vec::new();
    if v.try_reserve_exact(n).is_err() {
        let requested = (n as u64).saturating_mul(size_of::<E>() as u64);
        return Err(Error::OutOfMemory { requested, peak: requested });
    }
    v.resize(n, zero);
    Ok(v)
}

/// The cells of a plan with the states of one run moved in; they move back when it is dropped, also when an operation
/// panics.
struct Loan<'a, T> {
    cells: MutexGuard<'a, Vec<Cell<T>>>,
    floats: Vec<(usize, MutexGuard<'a, Vec<T>>)>,
    ints: Vec<(usize, MutexGuard<'a, Vec<u32>>)>,
}

impl<'a, T: Executed> Loan<'a, T> {
    fn take(&mut self, cell: usize, state: &'a Memory) -> Result<()> {
        if let Memory::U32(m) = state {
            let mut guard = lock(m);
            self.cells[cell] = Cell::Int(std::mem::take(&mut guard));
            self.ints.push((cell, guard));
            return Ok(());
        }
        let Some(mut guard) = T::state(state) else {
            return Err(Error::argument("run", "a state lives on another device than the plan"));
        };
        self.cells[cell] = Cell::Float(std::mem::take(&mut guard));
        self.floats.push((cell, guard));
        Ok(())
    }
}

impl<T> Drop for Loan<'_, T> {
    fn drop(&mut self) {
        for (cell, state) in &mut self.floats {
            if let Cell::Float(v) = std::mem::take(&mut self.cells[*cell]) {
                **state = v;
            }
        }
        for (cell, state) in &mut self.ints {
            if let Cell::Int(v) = std::mem::take(&mut self.cells[*cell]) {
                **state = v;
            }
        }
    }
}

/// The outputs of one step, taken out of their cells so that inputs can be borrowed beside them; put back when dropped.
struct Outputs<'a, T> {
    cells: &'a mut [Cell<T>],
    places: Vec<usize>,
    taken: Vec<Cell<T>>,
}

impl<'a, T> Outputs<'a, T> {
    fn take(cells: &'a mut [Cell<T>], places: Vec<usize>) -> Self {
        let taken = places.iter().map(|p| std::mem::take(&mut cells[*p])).collect();
        Outputs { cells, places, taken }
    }
}

impl<T> Drop for Outputs<'_, T> {
    fn drop(&mut self) {
        for (place, cell) in self.places.iter().zip(self.taken.drain(..)) {
            self.cells[*place] = cell;
        }
    }
}

/// Elements that the steps of a large program write.
const LARGE: usize = 1 << 15;

pub(crate) struct CpuPlan<T> {
    program: Arc<Program>,
    /// Cell of each buffer, and the elements of it that are the buffer's.
    place: Vec<(usize, Range<usize>)>,
    cells: Mutex<Vec<Cell<T>>>,
    pub bytes: u64,
    /// Whether there is work for several threads; waking them takes longer than a small program.
    large: bool,
}

impl<T: Executed> CpuPlan<T> {
    pub fn new(program: Arc<Program>) -> Result<Self> {
        if let Some(step) = program.steps.iter().find(|step| !step.op.on_cpu()) {
            let message = "has no CPU twin; give it one with CustomOpBuilder::cpu, or compile for a GPU";
            return Err(Error::argument(step.op.name(), message));
        }
        let floats = program.slots(Some(DType::F32));
        let ints = program.slots(Some(DType::U32));
        let inputs = program.buffers.iter().filter(|b| matches!(b.origin, Origin::Input(_)));
        let inputs: u64 = inputs.map(|b| b.ty.numel() as u64 * 4).sum();
        let all = floats.peak.saturating_add(ints.peak).saturating_add(inputs);
        crate::device::memory::room(all, all)?;
        let mut cells: Vec<Cell<T>> = Vec::new();
        for bytes in &floats.bytes {
            cells.push(Cell::Float(zeros(*bytes as usize / 4, T::ZERO)?));
        }
        for bytes in &ints.bytes {
            cells.push(Cell::Int(zeros(*bytes as usize / 4, 0)?));
        }
        let mut place = Vec::with_capacity(program.buffers.len());
        for (b, info) in program.buffers.iter().enumerate() {
            let shared = match (floats.of.get(&b), ints.of.get(&b)) {
                (Some(place), _) => Some((place.slot, place.offset as usize / 4)),
                (None, Some(place)) => Some((floats.bytes.len() + place.slot, place.offset as usize / 4)),
                (None, None) => None,
            };
            let (cell, start) = shared.unwrap_or((cells.len(), 0));
            place.push((cell, start..start + info.ty.numel()));
            if shared.is_some() {
                continue;
            }
            cells.push(match &info.origin {
                Origin::Constant(data) => match data.data() {
                    Data::F32(v) => Cell::Float(v.iter().map(|x| T::of(f64::from(*x))).collect()),
                    Data::U32(v) => Cell::Int(v.clone()),
                },
                Origin::Input(_) if info.ty.dtype == DType::F32 => Cell::Float(zeros(info.ty.numel(), T::ZERO)?),
                Origin::Input(_) => Cell::Int(zeros(info.ty.numel(), 0)?),
                // Nothing uses a computed buffer without a slot.
                Origin::Computed => Cell::Taken,
                Origin::State(_) => Cell::Taken,
            });
        }
        let size = |c: &Cell<T>| match c {
            Cell::Float(v) => std::mem::size_of_val(&v[..]) as u64,
            Cell::Int(v) => 4 * v.len() as u64,
            Cell::Taken => 0,
        };
        let bytes = cells.iter().map(size).sum();
        let elements = program.steps.iter().flat_map(|step| &step.outputs).map(Operand::numel);
        let large = elements.sum::<usize>() >= LARGE;
        Ok(CpuPlan { program, place, cells: Mutex::new(cells), bytes, large })
    }

    pub fn run(&self, feed: &Feed<'_>) -> Result<()> {
        self.run_with(feed, || {})
    }

    /// Runs, and returns start and time of each step.
    pub fn profile(&self, feed: &Feed<'_>) -> Result<Vec<(Duration, Duration)>> {
        let mut ends = Vec::with_capacity(self.program.steps.len() + 1);
        let start = now();
        self.run_with(feed, || ends.push(now().saturating_sub(start)))?;
        let starts = std::iter::once(Duration::ZERO).chain(ends.iter().copied());
        Ok(starts.zip(&ends).map(|(start, end)| (start, end.saturating_sub(start))).collect())
    }

    /// Runs, and calls `after` at the end of each step.
    fn run_with(&self, feed: &Feed<'_>, mut after: impl FnMut() + Send) -> Result<()> {
        // Everything is checked before anything changes.
        let mut states: Vec<(usize, Arc<super::State>)> = Vec::new();
        let mut inputs = Vec::new();
        for (b, info) in self.program.buffers.iter().enumerate() {
            match &info.origin {
                Origin::State(name) => {
                    let state = feed.state(name, &info.ty)?;
                    // One order for all plans, so that two of them cannot wait for each other.
                    let at = states.partition_point(|(_, other)| other.id <= state.id);
                    states.insert(at, (b, state));
                }
                Origin::Input(name) => inputs.push((b, feed.find(name, &info.ty)?)),
                _ => {}
            }
        }
        let mut loan = Loan { cells: lock(&self.cells), floats: Vec::new(), ints: Vec::new() };
        for (b, fed) in inputs {
            match (&mut loan.cells[self.place[b].0], fed) {
                (Cell::Float(v), Fed::Double(d)) => v.iter_mut().zip(d).for_each(|(v, d)| *v = T::of(*d)),
                (Cell::Float(v), Fed::Tensor(t)) => {
                    v.iter_mut().zip(t.floats()).for_each(|(v, d)| *v = T::of(f64::from(*d)));
                }
                (Cell::Int(v), Fed::Tensor(t)) => v.copy_from_slice(t.ints()),
                (_, Fed::Buffer(_)) => {
                    return Err(Error::argument("run", "a buffer of a GPU cannot be an input of the CPU executor"));
                }
                _ => {}
            }
        }
        for (b, state) in &states {
            loan.take(self.place[*b].0, &state.memory)?;
        }
        let cells = &mut loan.cells[..];
        let mut steps = || {
            for step in &self.program.steps {
                self.step(step, cells, feed);
                after();
            }
        };
        if self.large {
            par::in_pool(steps)
        } else {
            steps()
        }
        Ok(())
    }

    fn step(&self, step: &crate::plan::Step, cells: &mut [Cell<T>], feed: &Feed<'_>) {
        if step.outputs.iter().all(|o| o.numel() == 0) {
            return;
        }
        let places = step.outputs.iter().map(|o| self.place[o.buffer].0).collect();
        let mut held = Outputs::take(cells, places);
        let cells = &*held.cells;
        let inputs = step
            .inputs
            .iter()
            .map(|o| {
                let (cell, range) = self.place[o.buffer].clone();
                let data = match &cells[cell] {
                    Cell::Float(v) => Slice::Float(&v[range]),
                    Cell::Int(v) => Slice::Int(&v[range]),
                    // An input that the operation updates in place.
                    Cell::Taken if o.ty.dtype == DType::F32 => Slice::Float(&[]),
                    Cell::Taken => Slice::Int(&[]),
                };
                CpuInput { shape: &o.ty.shape, layout: &o.layout, data }
            })
            .collect();
        let outputs = step
            .outputs
            .iter()
            .zip(&mut held.taken)
            .map(|(o, cell)| {
                let start = self.place[o.buffer].1.start;
                let range = start..start + o.numel();
                let data = match cell {
                    Cell::Float(v) => SliceMut::Float(&mut v[range]),
                    Cell::Int(v) => SliceMut::Int(&mut v[range]),
                    Cell::Taken => SliceMut::Int(&mut []),
                };
                CpuOutput { shape: &o.ty.shape, data }
            })
            .collect();
        let mut call = CpuCall { inputs, outputs, step: feed.step, seed: feed.seed, rank: feed.rank };
        T::call(step.op.as_ref(), &mut call);
    }

    /// Cell and elements of a dense operand.
    fn elements(&self, operand: &Operand) -> (usize, Range<usize>) {
        let (cell, all) = &self.place[operand.buffer];
        let start = all.start + operand.layout.offset;
        (*cell, start..start + operand.numel())
    }

    pub fn read(&self, operand: &Operand) -> Result<Tensor> {
        let cells = lock(&self.cells);
        let (cell, range) = self.elements(operand);
        let data = match &cells[cell] {
            Cell::Float(v) => Data::F32(v[range].iter().map(|x| x.f64() as f32).collect()),
            Cell::Int(v) => Data::U32(v[range].to_vec()),
            Cell::Taken => {
                return Err(Error::argument("read", "a state is read through its store"));
            }
        };
        Tensor::new(operand.ty.shape.clone(), data)
    }

    #[cfg(feature = "oracle")]
    pub fn read_raw(&self, operand: &Operand) -> Result<Vec<f64>> {
        let cells = lock(&self.cells);
        let (cell, range) = self.elements(operand);
        match &cells[cell] {
            Cell::Float(v) => Ok(v[range].iter().map(|x| x.f64()).collect()),
            Cell::Int(v) => Ok(v[range].iter().map(|x| f64::from(*x)).collect()),
            Cell::Taken => Err(Error::argument("read", "a state is read through its store")),
        }
    }
}
