//! Runs a program on every executor, with parts of the planner switched off, and compares.

use crate::grow::{Aim, Draw, Grower};
use crate::memory::halves;
use crate::program::Program;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wgrad::check::sample::difference;
use wgrad::{DType, Data, Device, Error, Feed, Graph, Options, Store, Tensor, TensorType, Var};

/// Named outputs of two runs, and the states after them.
type Results = Vec<(String, Tensor)>;

const PLAIN: Options = Options { fuse: false, reuse: false };
const FULL: Options = Options { fuse: true, reuse: true };
const OTHERS: [Options; 3] = [PLAIN, Options { fuse: false, reuse: true }, Options { fuse: true, reuse: false }];

/// Largest difference from the oracle that needs no explanation: see [`difference`].
const TOLERANCE: f64 = 1e-4;
/// So many times what nudges of 3e-7 do to a result may its rounding do.
const AMPLIFIED: f64 = 30.0;

fn draw(ty: &TensorType, draw: Draw, rng: &mut ChaCha8Rng) -> Result<Tensor, Error> {
    let n = ty.numel();
    let mut unit = || f64::from(rng.random::<f32>());
    match draw {
        Draw::Normal => Tensor::f32(ty.shape.clone(), (0..n).map(|_| 2.0 * (unit() + unit() - 1.0) as f32).collect()),
        Draw::Exact => {
            Tensor::f32(ty.shape.clone(), (0..n).map(|_| ((unit() * 255.0) as f32 - 127.0) / 64.0).collect())
        }
        Draw::Below(below) => {
            Tensor::u32(ty.shape.clone(), (0..n).map(|_| (unit() * f64::from(below)) as u32).collect())
        }
        Draw::Squares => {
            let mut root = || 2.0 * (unit() + unit() - 1.0) as f32;
            Tensor::f32(ty.shape.clone(), (0..n).map(|_| root().powi(2)).collect())
        }
        Draw::Halves(width) => {
            let rows = ty.shape.first().copied().unwrap_or(0);
            let mut row = || (0..width).map(|_| ((unit() * 255.0) as f32 - 127.0) / 64.0).collect::<Vec<f32>>();
            Tensor::u32(ty.shape.clone(), (0..rows).flat_map(|_| halves(&row())).collect())
        }
        Draw::Bytes(width) => {
            let rows = ty.shape.first().copied().unwrap_or(0);
            let mut byte = |i: usize| if i < width { (unit() * 256.0) as u32 & 255 } else { 0 };
            let mut word = |w: usize| (0..4).rev().fold(0, |word, i| word << 8 | byte(4 * w + i));
            let words = width.div_ceil(4);
            Tensor::u32(ty.shape.clone(), (0..rows * words).map(|i| word(i % words)).collect())
        }
    }
}

/// How a program is run.
#[derive(Clone, Copy)]
struct Way<'d> {
    device: &'d Device,
    options: Options,
    /// The plan only computes the new states, and the test writes them: the oracle of state updates.
    by_hand: bool,
    /// Nudge rounded values, with this seed.
    nudge: Option<u64>,
}

fn run(program: &Program, way: Way<'_>) -> Result<Results, Error> {
    let graph = Graph::new();
    let g = Grower::new(&graph, program, if way.nudge.is_some() { Aim::Nudge } else { Aim::Run });
    let mut named: Vec<(String, Var<'_>)> = g.outputs.clone();
    if way.by_hand {
        named.extend(g.updates.iter().map(|(i, v)| (format!("next{i}"), *v)));
        named.extend(g.gate.map(|v| ("gate".to_owned(), v)));
        for (i, put) in g.puts.iter().enumerate() {
            named.extend([(format!("rows{i}"), put.rows), (format!("places{i}"), put.places)]);
        }
    } else {
        g.updates.iter().for_each(|(i, value)| graph.assign(g.states[*i].1, *value));
        g.puts.iter().for_each(|put| put.assign());
        g.gate.iter().for_each(|v| graph.gate(*v));
    }
    let outputs: Vec<(&str, Var<'_>)> = named.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let plan = pollster::block_on(way.device.compile_with(&graph, &outputs, way.options))?;
    let mut rng = ChaCha8Rng::seed_from_u64(program.seed);
    let store = Store::new(way.device);
    for (name, state, kind) in &g.states {
        store.set(name, &draw(&state.ty(), *kind, &mut rng)?)?;
    }
    let mut results = Vec::new();
    for run in 0..2u32 {
        let mut inputs = Vec::new();
        for (name, ty, kind) in &g.inputs {
            inputs.push((name, draw(ty, *kind, &mut rng)?));
        }
        let mut feed = Feed::new().store(&store).step(run, 0x1234_5678_9abc_def0 ^ way.nudge.unwrap_or(0));
        for (name, tensor) in &inputs {
            feed = feed.input(name, tensor);
        }
        plan.run(&feed)?;
        for (name, _) in &g.outputs {
            results.push((format!("{name} of run {run}"), plan.read_blocking(name)?));
        }
        let open = !way.by_hand || g.gate.is_none() || plan.read_blocking("gate")?.ints() != [0];
        for (i, _) in g.updates.iter().filter(|_| way.by_hand && open) {
            store.set(&g.states[*i].0, &plan.read_blocking(&format!("next{i}"))?)?;
        }
        for (i, put) in g.puts.iter().enumerate().filter(|_| way.by_hand && open) {
            put.by_hand(&store, &plan, [&format!("rows{i}"), &format!("places{i}")])?;
        }
    }
    for name in store.names() {
        results.push((name.clone(), store.read_blocking(&name)?));
    }
    Ok(results)
}

/// [`run`], with a panic as an error.
fn guarded(program: &Program, way: Way<'_>) -> Result<Results, String> {
    let place = || format!("{}, {:?}", way.device, way.options);
    let caught = catch_unwind(AssertUnwindSafe(|| run(program, way)));
    let result = caught.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        format!("{}: panic: {}", place(), text.unwrap_or_default())
    })?;
    result.map_err(|e| format!("{}: {e}", place()))
}

fn finite(results: &Results) -> bool {
    let good = |t: &Tensor| match t.data() {
        Data::F32(v) => v.iter().all(|x| x.is_finite() && x.abs() < 1e9),
        Data::U32(_) => true,
    };
    results.iter().all(|(_, t)| good(t))
}

/// Results that cancelled are compared with what cancelled: differences below 0.05 of unit size count in proportion.
fn scale(b: &Tensor) -> f64 {
    let top = b.floats().iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    (f64::from(top) / 0.05).min(1.0)
}

/// What a program was found to be.
pub enum Verdict {
    Agrees,
    /// Its results overflow, so there is nothing to compare.
    Unfit,
    Differs(String),
}

/// Compares all executors.
pub struct Checker {
    oracle: Device,
    devices: Vec<Device>,
}

impl Checker {
    pub fn new(gpu: Option<Device>) -> Checker {
        Checker { oracle: Device::cpu_f64(), devices: [Device::cpu()].into_iter().chain(gpu).collect() }
    }

    pub fn check(&self, program: &Program) -> Verdict {
        match self.compare(program) {
            Ok(true) => Verdict::Agrees,
            Ok(false) => Verdict::Unfit,
            Err(message) => Verdict::Differs(message),
        }
    }

    fn compare(&self, program: &Program) -> Result<bool, String> {
        let way = Way { device: &self.oracle, options: PLAIN, by_hand: true, nudge: None };
        let want = guarded(program, way)?;
        if !finite(&want) {
            return Ok(false);
        }
        let full = guarded(program, Way { options: FULL, by_hand: false, ..way })?;
        // The oracle's states were rounded to single precision between the runs.
        self.close(program, way, &full, &want, 1e-6)?;
        self.slope(program)?;
        for device in &self.devices {
            let way = Way { device, options: FULL, by_hand: false, nudge: None };
            let full = guarded(program, way)?;
            self.close(program, way, &full, &want, TOLERANCE)?;
            let seed = program.seed as usize;
            // On the CPU all the others; of a GPU's, which take longer, one.
            let others = if device.is_gpu() { &OTHERS[seed % 3..=seed % 3] } else { &OTHERS[..] };
            for &options in others {
                let way = Way { options, ..way };
                let got = guarded(program, way)?;
                // Sharing memory changes no bit; nor, on the CPU, does fusion.
                let same = options.fuse || !device.is_gpu();
                let differs = got.iter().zip(&full).find(|(a, b)| same && a != b);
                if let Some(((name, _), _)) = differs {
                    return Err(format!("{device}, {options:?}: {name} differs in bits"));
                }
                self.close(program, way, &got, &want, TOLERANCE)?;
            }
        }
        Ok(true)
    }

    /// The gradient against central differences of the loss along a random direction, in double precision. Only inputs that
    /// are rounded move: the others stand where functions jump.
    fn slope(&self, program: &Program) -> Result<(), String> {
        let graph = Graph::new();
        let g = Grower::new(&graph, program, Aim::Differ);
        if !g.honest || !g.outputs.iter().any(|(n, _)| n == "loss") {
            return Ok(());
        }
        let outputs: Vec<(&str, Var<'_>)> = g.outputs.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let fault = |e: Error| format!("differences: {e}");
        let plan = self.oracle.compile_blocking(&graph, &outputs).map_err(fault)?;
        let mut rng = ChaCha8Rng::seed_from_u64(program.seed);
        let states = g.states.iter().map(|(name, v, draw)| (name.clone(), v.ty(), *draw));
        let all: Vec<(String, TensorType, Draw)> = g.inputs.iter().cloned().chain(states).collect();
        let mut inputs = Vec::new();
        for (name, ty, kind) in &all {
            let values = draw(ty, *kind, &mut rng).map_err(fault)?;
            let moves = matches!(kind, Draw::Normal);
            let direction = if moves { draw(ty, Draw::Normal, &mut rng).map_err(fault)? } else { values.clone() };
            inputs.push((name, values, moves, direction));
        }
        let loss = |h: f64| {
            let moved: Vec<Vec<f64>> = inputs
                .iter()
                .map(|(_, x, _, d)| {
                    x.floats().iter().zip(d.floats()).map(|(x, d)| f64::from(*x) + h * f64::from(*d)).collect()
                })
                .collect();
            let mut feed = Feed::new().step(0, 7);
            for ((name, values, moves, _), moved) in inputs.iter().zip(&moved) {
                feed = if *moves { feed.input_f64(name, moved) } else { feed.input(name, values) };
            }
            plan.run(&feed)?;
            Ok(plan.read_f64("loss")?[0])
        };
        loss(0.0).map_err(fault)?;
        let (mut exact, mut size, mut float) = (0.0, 1e-3f64, 0);
        for ((_, _, moves, direction), (_, ty, _)) in inputs.iter().zip(&all) {
            if ty.dtype == DType::U32 {
                continue;
            }
            let name = format!("grad{float}");
            float += 1;
            if *moves && g.outputs.iter().any(|(n, _)| *n == name) {
                let gradient = plan.read_f64(&name).map_err(fault)?;
                for (slope, along) in gradient.iter().zip(direction.floats()) {
                    let term = slope * f64::from(*along);
                    exact += term;
                    size += term.abs();
                }
            }
        }
        // A difference of a finite step: the smaller step shows how far it is to be trusted.
        let difference = |h: f64| Ok((loss(h)? - loss(-h)?) / (2.0 * h));
        let (wide, narrow) = (difference(2e-5).map_err(fault)?, difference(1e-5).map_err(fault)?);
        let error = (narrow - exact).abs();
        if error > 1e-4 * size + 4.0 * (wide - narrow).abs() {
            return Err(format!("the gradient along a direction is {exact}, by differences {narrow}"));
        }
        Ok(())
    }

    fn close(
        &self,
        program: &Program,
        way: Way<'_>,
        got: &Results,
        want: &Results,
        tolerance: f64,
    ) -> Result<(), String> {
        if got.len() != want.len() {
            return Err(format!("{}, {:?}: other outputs", way.device, way.options));
        }
        for (i, ((name, a), (_, b))) in got.iter().zip(want).enumerate() {
            let d = difference(a, b) * scale(b);
            if d > tolerance && d > AMPLIFIED * self.sensitivity(program, want, i) {
                return Err(format!("{}, {:?}: {name} {} differs by {d:.1e}", way.device, way.options, b.ty()));
            }
        }
        Ok(())
    }

    /// How far nudges of the rounded values move result `i`.
    fn sensitivity(&self, program: &Program, want: &Results, i: usize) -> f64 {
        let moved = (1..4).filter_map(|seed| {
            let way = Way { device: &self.oracle, options: PLAIN, by_hand: true, nudge: Some(seed) };
            let moved = guarded(program, way).ok()?;
            Some(difference(&moved.get(i)?.1, &want[i].1) * scale(&want[i].1))
        });
        moved.filter(|d| d.is_finite()).fold(0.0, f64::max)
    }
}
