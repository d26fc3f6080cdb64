//! Runs programs: compile once, replay many times.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Store, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let (device, graph) = (Device::cpu(), Graph::new());
//! let count = graph.state("count", TensorType::f32([]));
//! graph.assign(count, count + 1.0); // at the end of a run
//! let plan = device.compile_blocking(&graph, &[("before", count)])?;
//!
//! let store = Store::new(&device);
//! store.set("count", &Tensor::scalar(41.0))?;
//! plan.run(&Feed::new().store(&store))?;
//! assert_eq!(plan.read_blocking("before")?.floats(), [41.0]);
//! assert_eq!(store.read_blocking("count")?.floats(), [42.0]);
//! # Ok(())
//! # }
//! ```

mod cache;
mod cpu;
mod explain;
mod gpu;
mod memory;
mod profile;
mod requirements;
mod roofline;
mod store;

pub use cache::{CacheStats, PlanCache};
pub use explain::{Explained, Explanation};
pub(crate) use gpu::lower;
pub use memory::{MemoryReport, Resident, Slot};
pub use profile::{KernelTime, Profile, Timing};
pub use requirements::Requirements;
pub use roofline::Roofline;
pub use store::{Memory, State, Store};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::kernels::{Capabilities, Dispatch};
use crate::plan::{Options, Program};
use crate::trace::{event, span, within};
use crate::types::{Operand, Tensor, TensorType};
use std::sync::Arc;
use std::time::Duration;

/// What one run gets: the stores its states live in, its inputs, and the step number and seed of its random numbers.
#[derive(Default)]
pub struct Feed<'a> {
    pub(crate) stores: Vec<&'a Store>,
    pub(crate) inputs: Vec<(&'a str, Fed<'a>)>,
    pub(crate) step: u32,
    pub(crate) seed: u64,
    pub(crate) rank: u32,
}

/// An input as it was given.
#[derive(Clone, Copy)]
pub(crate) enum Fed<'a> {
    Tensor(&'a Tensor),
    Double(&'a [f64]),
    Buffer(&'a wgpu::Buffer),
}

impl<'a> Feed<'a> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a store; states are looked up by name in the order the stores were added.
    pub fn store(mut self, store: &'a Store) -> Self {
        self.stores.push(store);
        self
    }

    /// Sets an input; the last one given under a name counts. Inputs that the plan does not need are ignored.
    pub fn input(mut self, name: &'a str, tensor: &'a Tensor) -> Self {
        self.inputs.push((name, Fed::Tensor(tensor)));
        self
    }

    /// Sets a float input in double precision, for the oracle.
    pub fn input_f64(mut self, name: &'a str, values: &'a [f64]) -> Self {
        self.inputs.push((name, Fed::Double(values)));
        self
    }

    /// Lets a buffer of the caller stand for an input, without a copy: from its start, with the usage `STORAGE`, on the
    /// plan's device. It must not be written while the run reads it; what was submitted to the queue before is done by then.
    /// The plan keeps the bind groups of the last few buffers, so that a ring of them costs nothing.
    pub fn buffer(mut self, name: &'a str, buffer: &'a wgpu::Buffer) -> Self {
        self.inputs.push((name, Fed::Buffer(buffer)));
        self
    }

    /// Sets step number and seed.
    pub fn step(mut self, step: u32, seed: u64) -> Self {
        (self.step, self.seed) = (step, seed);
        self
    }

    /// Says that this run computes part `rank` of a batch whose other parts, of the same shape, are computed elsewhere:
    /// random numbers are those that one run of the whole batch would draw for this part of the first axis.
    pub fn rank(mut self, rank: u32) -> Self {
        self.rank = rank;
        self
    }

    /// Refuses stores of another device than the plan's.
    fn lives_on(&self, device: &Device) -> Result<()> {
        match self.stores.iter().find(|s| !s.device().same(device)) {
            None => Ok(()),
            Some(store) => Err(Error::argument(
                "run",
                format!(
                    "a store lives on {}, the plan on {device}; make a store on the plan's device and move states with read and set",
                    store.device()
                ),
            )),
        }
    }

    pub(crate) fn find(&self, name: &str, ty: &TensorType) -> Result<Fed<'a>> {
        let Some((_, fed)) = self.inputs.iter().rev().find(|(n, _)| *n == name) else {
            // Names with a slash are the library's own.
            let given: Vec<&str> =
                self.inputs.iter().map(|(name, _)| *name).filter(|name| !name.contains('/')).collect();
            let given = match given.is_empty() {
                true => "nothing was given".to_owned(),
                false => format!("what is given is {}", crate::error::some(given.into_iter())),
            };
            let message = format!("not given; the plan needs {ty}, {given}; add it with Feed::input");
            return Err(Error::Name { kind: "input", name: name.to_owned(), message });
        };
        let fits = match fed {
            Fed::Tensor(t) => t.ty() == *ty,
            Fed::Double(v) => v.len() == ty.numel() && ty.dtype == crate::types::DType::F32,
            Fed::Buffer(b) => store::holds(b, ty),
        };
        if !fits {
            let got = match fed {
                Fed::Tensor(t) => t.ty().to_string(),
                Fed::Double(v) => format!("{} doubles", v.len()),
                Fed::Buffer(b) => format!("a buffer of {} bytes for {:?}", b.size(), b.usage()),
            };
            let message = format!("expected {ty}, got {got}; give the type the graph declares or build another plan");
            return Err(Error::Name { kind: "input", name: name.to_owned(), message });
        }
        Ok(*fed)
    }

    pub(crate) fn state(&self, name: &str, ty: &TensorType) -> Result<Arc<State>> {
        let Some(state) = self.stores.iter().find_map(|s| s.get(name)) else {
            let message = match self.stores.len() {
                0 => format!("no store was given; the plan needs {ty}; give the store that has it with Feed::store"),
                1 => format!("the store given has no such state; the plan needs {ty}; add it with Store::set"),
                n => format!("in none of the {n} stores given; the plan needs {ty}; add it to one with Store::set"),
            };
            return Err(Error::Name { kind: "state", name: name.to_owned(), message });
        };
        if state.ty != *ty {
            let message = format!("expected {ty}, the store has {}; set a tensor of the plan's type", state.ty);
            return Err(Error::Name { kind: "state", name: name.to_owned(), message });
        }
        Ok(state)
    }
}

/// Names for a message.
fn listed(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<String> = (names.into_iter()).map(|n| format!("\"{}\"", n.as_ref())).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// A compiled program on one device. Made once, run many times; after the first run with given stores nothing is
/// allocated any more.
pub struct Plan {
    device: Device,
    program: Arc<Program>,
    executor: Executor,
}

enum Executor {
    Gpu(Box<gpu::GpuPlan>),
    #[cfg(feature = "cpu")]
    Cpu32(cpu::CpuPlan<f32>),
    #[cfg(feature = "oracle")]
    Cpu64(cpu::CpuPlan<f64>),
}

impl Device {
    /// Compiles what `outputs` and the graph's state updates need.
    ///
    /// # Errors
    /// The first error that the graph keeps, such as [`Error::Shape`]; [`Error::Name`] for an output that is given
    /// twice or is of another graph; [`Error::Limit`] if a tensor exceeds a buffer or a binding of the device, or the
    /// plan [`GpuOptions::memory_limit`](crate::GpuOptions::memory_limit); [`Error::OutOfMemory`];
    /// [`Error::ShaderCompile`]; [`Error::Argument`] for an operation without a CPU twin on the CPU executor; what a
    /// [device](crate::error#what-a-device-reports) reports.
    pub async fn compile(&self, graph: &Graph, outputs: &[(&str, Var<'_>)]) -> Result<Plan> {
        self.compile_with(graph, outputs, Options::default()).await
    }

    /// [`compile`](Self::compile) with options.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub async fn compile_with(&self, graph: &Graph, outputs: &[(&str, Var<'_>)], options: Options) -> Result<Plan> {
        self.prepare(Arc::new(Program::build(graph, outputs, options)?)).await
    }

    /// Makes the plan of a program.
    pub(crate) async fn prepare(&self, program: Arc<Program>) -> Result<Plan> {
        let span = span!(DEBUG, "compile", steps = program.steps.len(), outputs = program.outputs.len());
        within(span, self.make(program)).await
    }

    async fn make(&self, program: Arc<Program>) -> Result<Plan> {
        let executor = match self {
            Device::Gpu(gpu) => Executor::Gpu(Box::new(gpu::GpuPlan::new(gpu.clone(), &program).await?)),
            #[cfg(feature = "cpu")]
            Device::Cpu(crate::device::Precision::F32) => Executor::Cpu32(cpu::CpuPlan::new(program.clone())?),
            #[cfg(feature = "oracle")]
            Device::Cpu(crate::device::Precision::F64) => Executor::Cpu64(cpu::CpuPlan::new(program.clone())?),
            #[cfg(not(feature = "cpu"))]
            Device::Cpu(_) => return Err(Error::argument("compile", "this build of the library has no CPU executor")),
        };
        let device = self.clone();
        let plan = Plan { device, program, executor };
        event!(
            DEBUG,
            "compiled",
            steps = plan.program.steps.len(),
            dispatches = plan.dispatches(),
            bytes = plan.bytes()
        );
        Ok(plan)
    }

    /// [`compile`](Self::compile), waiting on this thread.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compile_blocking(&self, graph: &Graph, outputs: &[(&str, Var<'_>)]) -> Result<Plan> {
        pollster::block_on(self.compile(graph, outputs))
    }
}

impl Plan {
    /// The device it was compiled for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The program: steps, buffers, memory.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Name and text of every shader the program needs on a device of these capabilities; generated ones share a name.
    ///
    /// # Errors
    /// [`Error::Limit`] if a dispatch exceeds these capabilities.
    pub fn shaders(&self, caps: &Capabilities) -> Result<Vec<(String, String)>> {
        let (dispatches, _) = gpu::lower(&self.program, caps)?;
        let one = |d: &Dispatch| Ok((d.source.name().to_owned(), d.source.text()?.into_owned()));
        dispatches.iter().map(one).collect()
    }

    /// Bytes this plan holds on its device: slots, inputs, constants.
    pub fn bytes(&self) -> u64 {
        match &self.executor {
            Executor::Gpu(p) => p.bytes,
            #[cfg(feature = "cpu")]
            Executor::Cpu32(p) => p.bytes,
            #[cfg(feature = "oracle")]
            Executor::Cpu64(p) => p.bytes,
        }
    }

    /// Runs once. Returns when the work is queued; the device may still be busy.
    ///
    /// On the CPU executor, do not run plans that share a store from tasks of one rayon pool: a waiting task may pick up the
    /// other one and wait for itself. Threads of your own are fine.
    ///
    /// # Errors
    /// [`Error::Name`] if an input or a state is missing or has another type; [`Error::Argument`] for a store or a
    /// buffer of another device; what a [device](crate::error#what-a-device-reports) reports. What is refused before the
    /// run changes nothing.
    pub fn run(&self, feed: &Feed<'_>) -> Result<()> {
        feed.lives_on(&self.device)?;
        span!(TRACE, "run", step = feed.step).in_scope(|| match &self.executor {
            Executor::Gpu(p) => p.run(feed),
            #[cfg(feature = "cpu")]
            Executor::Cpu32(p) => p.run(feed),
            #[cfg(feature = "oracle")]
            Executor::Cpu64(p) => p.run(feed),
        })
    }

    /// [`run`](Self::run), and the time from the first dispatch to the end of the last by the device's own clock, without
    /// what the host does: waits for it. `None` on the CPU executor and without timestamps ([`GpuOptions::timestamps`]);
    /// then nothing is waited for. For measuring: each call makes a few small objects.
    ///
    /// [`GpuOptions::timestamps`]: crate::GpuOptions::timestamps
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_timed(&self, feed: &Feed<'_>) -> Result<Option<Duration>> {
        feed.lives_on(&self.device)?;
        match &self.executor {
            Executor::Gpu(p) => within(span!(TRACE, "run", step = feed.step), p.run_timed(feed)).await,
            #[cfg(feature = "cpu")]
            _ => self.run(feed).map(|()| None),
        }
    }

    /// [`run_timed`](Self::run_timed), waiting on this thread.
    ///
    /// # Errors
    /// As [`run_timed`](Self::run_timed).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run_timed_blocking(&self, feed: &Feed<'_>) -> Result<Option<Duration>> {
        pollster::block_on(self.run_timed(feed))
    }

    /// Dispatches of a run; steps on the CPU executor.
    pub fn dispatches(&self) -> usize {
        match &self.executor {
            Executor::Gpu(p) => p.dispatches(),
            #[cfg(feature = "cpu")]
            _ => self.program.steps.len(),
        }
    }

    /// Records one run into a caller's encoder of the same device, which the caller submits. Needs a GPU plan.
    ///
    /// Step number and seed are recorded with the run, so a plan may be encoded with different ones as often as you like before
    /// anything is submitted (every 63rd encoding makes a buffer of 1 KiB for the next ones). Inputs are not: they are written with
    /// [`wgpu::Queue::write_buffer`], which takes effect before the next submit, so all encodings of one submit see the
    /// inputs given last. What changes between them belongs into states.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Error::Argument`] on the CPU executor.
    pub fn encode(&self, feed: &Feed<'_>, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        feed.lives_on(&self.device)?;
        span!(TRACE, "encode", step = feed.step).in_scope(|| match &self.executor {
            Executor::Gpu(p) => p.encode(feed, encoder),
            #[cfg(feature = "cpu")]
            _ => Err(Error::argument(
                "encode",
                "the plan runs on the CPU executor, which has no command encoder; use run",
            )),
        })
    }

    /// The buffer that a run leaves a named output in, for others on the same device: they read it after a run and before
    /// the next, without a copy. It has the usages `STORAGE` and `COPY_SRC`; to have a result in a buffer of your own, of
    /// any usage, [`Graph::assign`] it to a state in it ([`Store::adopt`]). `None` on the CPU executor, for an output
    /// without elements, and for one that the plan does not have.
    pub fn buffer(&self, name: &str) -> Option<wgpu::BufferSlice<'_>> {
        let (_, operand) = self.program.outputs.iter().find(|(n, _)| n == name)?;
        match &self.executor {
            Executor::Gpu(p) => p.output(operand),
            #[cfg(feature = "cpu")]
            _ => None,
        }
    }

    /// Reads a named output of the last run.
    ///
    /// # Errors
    /// [`Error::Name`] for an unknown name, with those there are; what a [device](crate::error#what-a-device-reports)
    /// reports.
    pub async fn read(&self, name: &str) -> Result<Tensor> {
        let Some((_, operand)) = self.program.outputs.iter().find(|(n, _)| n == name) else {
            let known = self.program.outputs.iter().map(|(n, _)| n);
            let message = format!("the plan has no such output; it has {}", listed(known));
            return Err(Error::Name { kind: "output", name: name.to_owned(), message });
        };
        within(span!(TRACE, "read", name = name, elements = operand.numel()), self.read_operand(operand)).await
    }

    /// Reads a value of the program that still has its memory after the run.
    pub(crate) async fn read_operand(&self, operand: &Operand) -> Result<Tensor> {
        match &self.executor {
            Executor::Gpu(p) => p.read(operand).await,
            #[cfg(feature = "cpu")]
            Executor::Cpu32(p) => p.read(operand),
            #[cfg(feature = "oracle")]
            Executor::Cpu64(p) => p.read(operand),
        }
    }

    /// [`read`](Self::read), waiting on this thread.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_blocking(&self, name: &str) -> Result<Tensor> {
        pollster::block_on(self.read(name))
    }

    /// Reads an output in double precision; on other executors than the oracle it is converted.
    pub(crate) async fn read_double(&self, name: &str) -> Result<Vec<f64>> {
        #[cfg(feature = "oracle")]
        if let (Executor::Cpu64(p), Some((_, o))) =
            (&self.executor, self.program.outputs.iter().find(|(n, _)| n == name))
        {
            return p.read_raw(o);
        }
        Ok(match self.read(name).await?.data() {
            crate::types::Data::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            crate::types::Data::U32(v) => v.iter().map(|x| f64::from(*x)).collect(),
        })
    }

    /// Reads a float output in double precision; on other executors than the oracle it is converted.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>> {
        pollster::block_on(self.read_double(name))
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.executor {
            Executor::Gpu(p) => p.fmt(f)?,
            #[cfg(feature = "cpu")]
            _ => self.program.fmt(f)?,
        }
        writeln!(f, "{} bytes held by the plan", self.bytes())
    }
}
