//! What is measured: a graph with random states, or a trainer with a batch.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use std::time::Duration;
use wgrad::nn::{ParamVars, Params};
use wgrad::train::Trainer;
use wgrad::{Device, Error, Feed, Graph, Plan, Result, Store, Tensor, TensorType, Var};

/// One row of a suite before it is measured.
pub struct Case {
    pub op: &'static str,
    /// Numbers that say how large it is; peers get the same.
    pub dims: Vec<usize>,
    /// Bytes that the algorithm must move, and operations it must do.
    pub bytes: f64,
    pub flops: f64,
    /// Left out by `--quick`.
    pub large: bool,
    pub make: Make,
}

pub type Make = Box<dyn Fn(&Device) -> Result<Box<dyn Work>>>;

impl Case {
    pub fn new(op: &'static str, dims: &[usize], make: Make) -> Self {
        Case { op, dims: dims.to_vec(), bytes: 0.0, flops: 0.0, large: false, make }
    }

    /// Elements of four bytes that must be read or written, and operations.
    pub fn counts(mut self, elements: usize, flops: usize) -> Self {
        (self.bytes, self.flops) = (4.0 * elements as f64, flops as f64);
        self
    }

    pub fn large(mut self) -> Self {
        self.large = true;
        self
    }

    pub fn shape(&self) -> String {
        self.dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
    }
}

/// Something that runs again and again on one device.
pub trait Work {
    /// Runs once; the device may still be busy.
    fn run(&mut self) -> Result<()>;

    /// Runs once; the time by the device's clock, if it has one.
    fn timed(&mut self) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Plans of a run.
    fn plans(&self) -> Vec<&Plan>;

    /// Bytes on the device.
    fn bytes(&self) -> u64;
}

/// A plan and its states.
pub struct Replay {
    plan: Plan,
    store: Store,
}

impl Replay {
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl Work for Replay {
    fn run(&mut self) -> Result<()> {
        self.plan.run(&Feed::new().store(&self.store))
    }

    fn timed(&mut self) -> Result<Option<Duration>> {
        self.plan.run_timed_blocking(&Feed::new().store(&self.store))
    }

    fn plans(&self) -> Vec<&Plan> {
        vec![&self.plan]
    }

    fn bytes(&self) -> u64 {
        self.plan.bytes() + self.store.bytes()
    }
}

/// A trainer and one batch.
pub struct Training {
    pub trainer: Trainer,
    pub batch: Vec<(&'static str, Tensor)>,
}

impl Work for Training {
    fn run(&mut self) -> Result<()> {
        let batch: Vec<(&str, &Tensor)> = self.batch.iter().map(|(name, t)| (*name, t)).collect();
        self.trainer.step(&batch)
    }

    fn plans(&self) -> Vec<&Plan> {
        self.trainer.plans().collect()
    }

    fn bytes(&self) -> u64 {
        self.trainer.bytes()
    }
}

/// Where a graph is built: it remembers what its states hold.
pub struct Scene<'g> {
    pub graph: &'g Graph,
    states: RefCell<Vec<(String, Fill, TensorType)>>,
    params: RefCell<Option<Params>>,
}

#[derive(Clone, Copy)]
enum Fill {
    Zeros,
    Uniform,
    Below(u32),
}

impl<'g> Scene<'g> {
    fn state(&self, ty: TensorType, fill: Fill) -> Var<'g> {
        let mut states = self.states.borrow_mut();
        let name = format!("state {}", states.len());
        let var = self.graph.state(&name, ty.clone());
        states.push((name, fill, ty));
        var
    }

    /// Floats of deviation 1.
    pub fn floats(&self, shape: impl Into<wgrad::Shape>) -> Var<'g> {
        self.state(TensorType::f32(shape), Fill::Uniform)
    }

    /// What is added up from nothing.
    pub fn zeros(&self, shape: &[usize]) -> Var<'g> {
        self.state(TensorType::f32(shape), Fill::Zeros)
    }

    /// Integers below a bound.
    pub fn indices<const D: usize>(&self, shape: [usize; D], below: usize) -> Var<'g> {
        self.state(TensorType::u32(shape), Fill::Below(below as u32))
    }

    pub fn params(&self, params: &Params) -> ParamVars<'g> {
        *self.params.borrow_mut() = Some(params.clone());
        params.vars(self.graph)
    }

    /// `y`, and the gradients of `wrt` when `y` gets a random cotangent.
    pub fn backward(&self, y: Var<'g>, wrt: &[Var<'g>]) -> Vec<Var<'g>> {
        let cotangent = self.state(TensorType::f32(y.shape()), Fill::Uniform);
        let grads = self.graph.vjp(&[(y, cotangent)], wrt);
        [y].into_iter().chain(grads.iter().filter_map(|g| g.dense())).collect()
    }

    /// The same of all parameters and `x`.
    pub fn backward_all(&self, p: &ParamVars<'g>, y: Var<'g>, x: &[Var<'g>]) -> Vec<Var<'g>> {
        let names: Vec<String> = p.names().map(str::to_owned).collect();
        let wrt: Vec<Var<'g>> = names.iter().map(|name| p.get(name)).chain(x.iter().copied()).collect();
        self.backward(y, &wrt)
    }
}

/// Values of deviation 1.
pub fn uniform(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.732f32..1.732)).collect()
}

pub fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

/// Compiles what `build` makes and fills its states.
pub fn replay(device: &Device, build: impl for<'g> Fn(&Scene<'g>) -> Vec<Var<'g>>) -> Result<Replay> {
    let graph = Graph::new();
    let scene = Scene { graph: &graph, states: RefCell::default(), params: RefCell::default() };
    let outputs = build(&scene);
    let names: Vec<String> = (0..outputs.len()).map(|i| i.to_string()).collect();
    let named: Vec<(&str, Var<'_>)> = names.iter().map(String::as_str).zip(outputs).collect();
    let plan = device.compile_blocking(&graph, &named)?;
    let store = match scene.params.into_inner() {
        Some(params) => params.store(device)?,
        None => Store::new(device),
    };
    let mut rng = rng();
    for (name, fill, ty) in scene.states.into_inner() {
        let n = ty.numel();
        let tensor = match fill {
            Fill::Zeros => Tensor::f32(&ty.shape, vec![0.0; n])?,
            Fill::Uniform => Tensor::f32(&ty.shape, uniform(&mut rng, n))?,
            Fill::Below(most) => Tensor::u32(&ty.shape, (0..n).map(|_| rng.random_range(0..most)).collect())?,
        };
        store.set(&name, &tensor)?;
    }
    Ok(Replay { plan, store })
}

/// A case that replays a graph.
pub fn graph(build: impl for<'g> Fn(&Scene<'g>) -> Vec<Var<'g>> + 'static) -> Make {
    Box::new(move |device| Ok(Box::new(replay(device, &build)?)))
}

/// Waits for the device.
pub fn wait(device: &Device) -> Result<()> {
    if let Some(gpu) = device.as_gpu() {
        let done = gpu.wgpu().0.poll(wgpu::PollType::wait_indefinitely());
        done.map_err(|e| Error::Device { message: e.to_string() })?;
    }
    Ok(())
}
