//! The GPU executor: lowers a program once, then replays it with one submit a run.

mod places;
mod print;
mod timed;

pub(super) use places::slots;

use super::store::from_bytes;
use super::{Fed, Feed, Memory, State};
use crate::device::clock::Clock;
use crate::device::memory::Held;
use crate::device::readback::Readback;
use crate::device::{Gpu, lock};
use crate::error::{Error, Result};
use crate::kernels::{Access, Buffer, Dispatch, Lower};
use crate::plan::{Life, Origin, Place, Program, Slots};
use crate::types::{Operand, Tensor, TensorType};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Bytes between uniforms in their buffer.
const ALIGN: u64 = 256;
/// Slots of the per-step uniform in one buffer. Runs take the first: they are submitted at once. An encoding takes one that nothing
/// else has written, since only the caller knows when it is submitted.
const SLOTS: u64 = 64;
/// Submits that may be in flight before a run waits for the oldest.
#[cfg(not(target_arch = "wasm32"))]
const IN_FLIGHT: usize = 3;
/// Sets of stores whose bind groups are kept.
const BOUND: usize = 16;

/// The per-step uniform: step, seed low, seed high, rank.
type Globals = [u32; 4];

/// The per-step uniforms of runs that are recorded.
struct Recorded {
    buffer: wgpu::Buffer,
    /// Slots that are taken, that of runs included.
    taken: u64,
}

impl Recorded {
    fn new(gpu: &Gpu, peak: u64) -> Result<Recorded> {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        Ok(Recorded { buffer: gpu.buffer("recorded globals", 16 * SLOTS, usage, peak)?, taken: 1 })
    }

    /// Place of the next encoding. When all are taken there is a new buffer; the old one lives as long as encoders need it.
    fn next(&mut self, gpu: &Gpu, peak: u64) -> Result<u64> {
        if self.taken == SLOTS {
            *self = Recorded::new(gpu, peak)?;
        }
        self.taken += 1;
        Ok(16 * (self.taken - 1))
    }
}

struct Ready {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    dispatch: Dispatch,
    uniform: u64,
}

/// Where a value is: all of a buffer, or its bytes from `offset` on.
struct Room {
    buffer: wgpu::Buffer,
    offset: u64,
}

impl From<wgpu::Buffer> for Room {
    fn from(buffer: wgpu::Buffer) -> Self {
        Room { buffer, offset: 0 }
    }
}

/// What may be another buffer in the next run.
enum Bindable {
    State(Arc<State>),
    Input(usize, wgpu::Buffer),
}

impl PartialEq for Bindable {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Bindable::State(a), Bindable::State(b)) => a.id == b.id,
            (Bindable::Input(a, x), Bindable::Input(b, y)) => a == b && x == y,
            _ => false,
        }
    }
}

/// Bind groups for one set of states and callers' inputs, in the order of the dispatches.
type Bound = Arc<Vec<wgpu::BindGroup>>;

pub(crate) struct GpuPlan {
    gpu: Arc<Gpu>,
    program: Arc<Program>,
    ready: Vec<Ready>,
    temps: Vec<usize>,
    slots: Slots,
    /// Where values other than states are: of the program, then temporaries.
    buffers: FxHashMap<Buffer, Room>,
    uniforms: wgpu::Buffer,
    globals: wgpu::Buffer,
    recorded: Mutex<Recorded>,
    /// With what they bind, which they keep alive.
    bound: Mutex<VecDeque<(Vec<Bindable>, Bound)>>,
    #[cfg(not(target_arch = "wasm32"))]
    in_flight: Mutex<VecDeque<wgpu::SubmissionIndex>>,
    readback: Readback,
    pub bytes: u64,
    /// Its share of the device's memory.
    _held: Held,
}

/// Dispatches of a whole program and the sizes of their temporaries.
pub(crate) fn lower(program: &Program, caps: &crate::kernels::Capabilities) -> Result<(Vec<Dispatch>, Vec<usize>)> {
    let mut temps = Vec::new();
    let mut all = Vec::new();
    for (number, step) in program.steps.iter().enumerate() {
        let mut cx = Lower {
            caps,
            inputs: &step.inputs,
            outputs: &step.outputs,
            label: step.op.name().to_owned(),
            step: number,
            dispatches: Vec::new(),
            temps: &mut temps,
        };
        step.op.lower(&mut cx)?;
        let made = cx.dispatches;
        all.extend(made);
    }
    Ok((all, temps))
}

/// Bytes of a plan: slots, inputs, constants and uniforms.
fn total(program: &Program, dispatches: &[Dispatch], peak: u64) -> u64 {
    let given = program.buffers.iter().filter(|b| matches!(b.origin, Origin::Input(_) | Origin::Constant(_)));
    let given: u64 = given.map(|b| b.ty.numel() as u64 * 4).sum();
    let uniforms = dispatches.iter().filter_map(|d| d.uniform.as_ref());
    let uniforms: u64 = uniforms.map(|u| (u.len() as u64).next_multiple_of(ALIGN)).sum();
    peak + given + uniforms + 16 * (SLOTS + 1)
}

impl GpuPlan {
    pub async fn new(gpu: Arc<Gpu>, program: &Arc<Program>) -> Result<Self> {
        let (dispatches, temps) = lower(program, gpu.capabilities())?;
        let slots = slots(program, &dispatches, &temps);
        let peak = slots.peak;
        // Everything that the limits refuse is refused before anything is made.
        for bytes in &slots.bytes {
            gpu.fits("slot", *bytes, peak)?;
        }
        for info in &program.buffers {
            if let Origin::Input(name) = &info.origin {
                gpu.fits(name, info.ty.numel() as u64 * 4, peak)?;
            }
        }
        let held = gpu.hold("the plan", total(program, &dispatches, peak), peak)?;
        gpu.compile(&dispatches).await?;
        let owner = gpu.clone();
        owner.guarded(peak, || Self::make(gpu, program.clone(), dispatches, temps, slots, held)).await
    }

    fn make(
        gpu: Arc<Gpu>,
        program: Arc<Program>,
        dispatches: Vec<Dispatch>,
        temps: Vec<usize>,
        slots: Slots,
        held: Held,
    ) -> Result<Self> {
        use wgpu::BufferUsages as U;
        let storage = U::STORAGE | U::COPY_DST | U::COPY_SRC;
        let peak = slots.peak;
        let made: Vec<wgpu::Buffer> =
            slots.bytes.iter().map(|b| gpu.buffer("slot", *b, storage, peak)).collect::<Result<_>>()?;
        let bytes = total(&program, &dispatches, peak);
        let mut buffers: FxHashMap<Buffer, Room> = FxHashMap::default();
        let n = program.buffers.len();
        let room = |place: &Place| Room { buffer: made[place.slot].clone(), offset: place.offset };
        for (b, info) in program.buffers.iter().enumerate() {
            let size = info.ty.numel() as u64 * 4;
            let buffer = match (&info.origin, slots.of.get(&b)) {
                (Origin::State(_), _) => continue,
                (Origin::Computed, Some(place)) => room(place),
                (Origin::Computed, None) => continue,
                (Origin::Input(name), _) => gpu.buffer(name, size, storage, peak)?.into(),
                (Origin::Constant(data), _) => {
                    let buffer = gpu.buffer("constant", size, storage, peak)?;
                    if size > 0 {
                        gpu.queue.write_buffer(&buffer, 0, data.data().bytes());
                    }
                    buffer.into()
                }
            };
            buffers.insert(Buffer::Program(b), buffer);
        }
        for t in 0..temps.len() {
            if let Some(place) = slots.of.get(&(n + t)) {
                buffers.insert(Buffer::Temp(t), room(place));
            }
        }
        let mut blob: Vec<u8> = Vec::new();
        let mut ready = Vec::with_capacity(dispatches.len());
        for dispatch in dispatches {
            let uniform = blob.len() as u64;
            if let Some(u) = &dispatch.uniform {
                blob.extend_from_slice(u);
                blob.resize(blob.len().next_multiple_of(ALIGN as usize), 0);
            }
            let (pipeline, layout) = (gpu.pipeline(&dispatch)?, gpu.layout(&dispatch));
            ready.push(Ready { pipeline, layout, dispatch, uniform });
        }
        let uniforms = gpu.buffer("uniforms", blob.len() as u64, U::UNIFORM | U::COPY_DST, peak)?;
        if !blob.is_empty() {
            gpu.queue.write_buffer(&uniforms, 0, &blob);
        }
        let globals = gpu.buffer("globals", 16, U::UNIFORM | U::COPY_DST, peak)?;
        let recorded = Mutex::new(Recorded::new(&gpu, peak)?);
        Ok(GpuPlan {
            gpu,
            program,
            ready,
            temps,
            slots,
            buffers,
            uniforms,
            globals,
            recorded,
            bound: Mutex::default(),
            #[cfg(not(target_arch = "wasm32"))]
            in_flight: Mutex::default(),
            readback: Readback::default(),
            bytes,
            _held: held,
        })
    }

    fn bind(&self, feed: &Feed<'_>, inputs: &[(usize, Fed<'_>, &TensorType)]) -> Result<Bound> {
        let mut states: FxHashMap<usize, wgpu::Buffer> = FxHashMap::default();
        let mut bind = Vec::new();
        for (b, fed, _) in inputs {
            if let Fed::Buffer(buffer) = fed {
                states.insert(*b, (*buffer).clone());
                bind.push(Bindable::Input(*b, (*buffer).clone()));
            }
        }
        for (b, info) in self.program.buffers.iter().enumerate() {
            let Origin::State(name) = &info.origin else {
                continue;
            };
            let state = feed.state(name, &info.ty)?;
            let Memory::Gpu(buffer) = &state.memory else {
                return Err(Error::argument("run", "a state lives on another device than the plan"));
            };
            states.insert(b, buffer.clone());
            bind.push(Bindable::State(state));
        }
        let mut bound = lock(&self.bound);
        if let Some((_, groups)) = bound.iter().find(|(known, _)| *known == bind) {
            return Ok(groups.clone());
        }
        self.check_shared(&states)?;
        let groups: Result<Vec<wgpu::BindGroup>> = self.ready.iter().map(|r| self.group(r, &states)).collect();
        let groups = Arc::new(groups?);
        bound.push_back((bind, groups.clone()));
        if bound.len() > BOUND {
            bound.pop_front();
        }
        Ok(groups)
    }

    /// Refuses a buffer that stands for two inputs or states of which a run writes one: the plan takes them for two.
    fn check_shared(&self, given: &FxHashMap<usize, wgpu::Buffer>) -> Result<()> {
        let writes = |b: usize| {
            let bindings = self.ready.iter().flat_map(|r| &r.dispatch.bindings);
            bindings.into_iter().any(|x| x.access == Access::Write && x.buffer == Buffer::Program(b))
        };
        let name = |b: usize| match &self.program.buffers[b].origin {
            Origin::State(name) => format!("state {name}"),
            Origin::Input(name) => format!("input {name}"),
            Origin::Constant(_) | Origin::Computed => format!("b{b}"),
        };
        for (a, buffer) in given {
            let twin = given.iter().find(|(b, other)| *b > a && *other == buffer);
            if let Some((b, _)) = twin.filter(|(b, _)| writes(*a) || writes(**b)) {
                let message =
                    format!("{} and {} are one buffer, and the run writes it", name(*a.min(b)), name(*a.max(b)));
                return Err(Error::argument("run", message));
            }
        }
        Ok(())
    }

    fn group(&self, ready: &Ready, states: &FxHashMap<usize, wgpu::Buffer>) -> Result<wgpu::BindGroup> {
        let dispatch = &ready.dispatch;
        let mut entries = Vec::new();
        let mut add = |buffer, offset, size| {
            let binding = entries.len() as u32;
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size });
            entries.push(wgpu::BindGroupEntry { binding, resource });
        };
        for b in &dispatch.bindings {
            let state = if let Buffer::Program(p) = b.buffer { states.get(&p) } else { None };
            let room = || self.buffers.get(&b.buffer).map(|room| (&room.buffer, room.offset));
            let Some((buffer, offset)) = state.map(|buffer| (buffer, 0)).or_else(room) else {
                return Err(Error::Device { message: format!("{} binds a buffer without memory", dispatch.label) });
            };
            let start = offset + b.start as u64 * 4;
            let end = (offset + b.end as u64 * 4).min(buffer.size());
            add(buffer, start, wgpu::BufferSize::new(end.saturating_sub(start)));
        }
        if let Some(uniform) = &dispatch.uniform {
            add(&self.uniforms, ready.uniform, wgpu::BufferSize::new(uniform.len() as u64));
        }
        if dispatch.globals {
            add(&self.globals, 0, wgpu::BufferSize::new(16));
        }
        self.gpu.counters.bind_groups.fetch_add(1, Ordering::Relaxed);
        Ok(self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&dispatch.label),
            layout: &ready.layout,
            entries: &entries,
        }))
    }

    pub fn run(&self, feed: &Feed<'_>) -> Result<()> {
        self.submit(feed, None)
    }

    /// Dispatches of a run.
    pub fn dispatches(&self) -> usize {
        self.ready.len()
    }

    /// What they are.
    pub fn lowered(&self) -> impl Iterator<Item = &Dispatch> {
        self.ready.iter().map(|r| &r.dispatch)
    }

    /// When values live.
    pub fn lives(&self) -> Vec<Life> {
        places::lives(&self.program, self.lowered(), &self.temps)
    }

    /// Where they live.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    fn submit(&self, feed: &Feed<'_>, clock: Option<&Clock>) -> Result<()> {
        // One run at a time: another thread's inputs must not slip in before the submit.
        #[cfg(not(target_arch = "wasm32"))]
        let mut in_flight = lock(&self.in_flight);
        let _index = self.guarded(|| {
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            self.record(feed, &mut encoder, clock, true)?;
            Ok(self.gpu.queue.submit([encoder.finish()]))
        })?;
        self.gpu.counters.submits.fetch_add(1, Ordering::Relaxed);
        // A browser cannot wait; there the caller does, by reading a result now and then.
        #[cfg(not(target_arch = "wasm32"))]
        {
            in_flight.push_back(_index);
            if in_flight.len() > IN_FLIGHT {
                self.gpu.poll(wgpu::PollType::Wait { submission_index: in_flight.pop_front(), timeout: None })?;
            }
        }
        self.gpu.check()
    }

    /// Writes inputs and records the run into a caller's encoder.
    pub fn encode(&self, feed: &Feed<'_>, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.guarded(|| self.record(feed, encoder, None, false))
    }

    /// Keeps the plan's errors from the owner of an adopted device, and bind groups that failed from later runs.
    fn guarded<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = self.gpu.guarded_now(self.slots.peak, f);
        if matches!(&result, Err(Error::Device { .. } | Error::OutOfMemory { .. })) {
            lock(&self.bound).clear();
        }
        result
    }

    /// Records a run, which is submitted `at_once` or whenever the caller does.
    fn record(
        &self,
        feed: &Feed<'_>,
        encoder: &mut wgpu::CommandEncoder,
        clock: Option<&Clock>,
        at_once: bool,
    ) -> Result<()> {
        let mut inputs = Vec::new();
        for (b, info) in self.program.buffers.iter().enumerate() {
            if let Origin::Input(name) = &info.origin {
                inputs.push((b, feed.find(name, &info.ty)?, &info.ty));
            }
        }
        let groups = self.bind(feed, &inputs)?;
        for (b, fed, ty) in inputs {
            self.write(b, fed, ty);
        }
        let globals: Globals = [feed.step, feed.seed as u32, (feed.seed >> 32) as u32, feed.rank];
        {
            let mut recorded = lock(&self.recorded);
            let place = if at_once { 0 } else { recorded.next(&self.gpu, self.slots.peak)? };
            self.gpu.queue.write_buffer(&recorded.buffer, place, bytemuck::cast_slice(&globals));
            encoder.copy_buffer_to_buffer(&recorded.buffer, place, &self.globals, 0, 16);
        }
        // One pass, or one for each dispatch if each is timed.
        let passes = clock.map_or(1, Clock::passes);
        let each = self.ready.len().div_ceil(passes);
        for number in 0..passes {
            let timestamp_writes = clock.and_then(|clock| clock.writes(number));
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            for (ready, group) in self.ready.iter().zip(groups.iter()).skip(number * each).take(each) {
                let [x, y] = ready.dispatch.grid;
                pass.set_pipeline(&ready.pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(x, y, 1);
            }
        }
        if let Some(clock) = clock {
            clock.resolve(encoder);
        }
        Ok(())
    }

    fn write(&self, b: usize, fed: Fed<'_>, ty: &TensorType) {
        // Inputs have buffers of their own.
        let Some(Room { buffer, .. }) = self.buffers.get(&Buffer::Program(b)) else {
            return;
        };
        if ty.numel() == 0 {
            return;
        }
        match fed {
            Fed::Tensor(t) => self.gpu.queue.write_buffer(buffer, 0, t.data().bytes()),
            Fed::Double(d) => {
                let single: Vec<f32> = d.iter().map(|x| *x as f32).collect();
                self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(&single));
            }
            Fed::Buffer(_) => {}
        }
    }

    /// Where a run leaves an output.
    pub fn output(&self, operand: &Operand) -> Option<wgpu::BufferSlice<'_>> {
        let room = self.buffers.get(&Buffer::Program(operand.buffer)).filter(|_| operand.numel() > 0)?;
        let start = room.offset + operand.layout.offset as u64 * 4;
        Some(room.buffer.slice(start..start + operand.numel() as u64 * 4))
    }

    pub async fn read(&self, operand: &Operand) -> Result<Tensor> {
        let data = match self.buffers.get(&Buffer::Program(operand.buffer)) {
            Some(room) => {
                let offset = room.offset + operand.layout.offset as u64 * 4;
                self.readback.read(&self.gpu, &room.buffer, offset, operand.numel() as u64 * 4).await?
            }
            None => Vec::new(),
        };
        Tensor::new(operand.ty.shape.clone(), from_bytes(&data, operand.ty.dtype))
    }
}
