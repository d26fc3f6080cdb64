//! Random graphs agree on all executors, with every part of the planner switched on and off: values, gradients, and
//! states after two runs. `WGRAD_GRAPHS=from..to` chooses other seeds than the default.

mod common;
#[path = "common/grow.rs"]
mod grow;

use grow::Grower;
use rand::RngExt;
use wgrad::ops::check::difference;
use wgrad::ops::optim::Accumulate;
use wgrad::ops::samples::{Draw, values};
use wgrad::plan::Program;
use wgrad::{Device, Feed, Graph, Options, Store, Tensor, TensorType, Var};

/// What a run of a case gives: named outputs of both runs, and the states after them.
type Results = Vec<(String, Tensor)>;
type Named<'g> = Vec<(String, Var<'g>)>;

/// A random computation: what it reads, what it gives, and how it updates its states.
struct Case<'g> {
    grown: Grower<'g>,
    outputs: Named<'g>,
    updates: Vec<(usize, Var<'g>)>,
    gate: Option<Var<'g>>,
}

impl<'g> Case<'g> {
    fn new(graph: &'g Graph, seed: u64) -> Self {
        let mut g = Grower::new(graph, seed);
        for _ in 0..g.rng.random_range(4..30) {
            g.step();
        }
        let mut loss = graph.full([], 0.0);
        for _ in 0..3 {
            loss = loss + g.pick().tanh().sum_all();
        }
        let wrt: Vec<Var<'_>> = g.states.iter().chain(&g.exact).copied().collect();
        let gradients = graph.grad(loss, &wrt);
        let gradients: Vec<Option<Var<'_>>> = gradients.iter().map(|x| x.dense()).collect();
        let mut outputs = vec![("loss".to_owned(), loss)];
        for i in 0..4 {
            outputs.push((format!("out{i}"), g.pick()));
        }
        for (i, gradient) in gradients.iter().enumerate() {
            outputs.extend(gradient.map(|v| (format!("grad{i}"), v)));
        }
        let gate = match g.below(4) {
            0 => Some(loss.is_finite().reshape([])),
            // Open at some runs only.
            1 => Some(g.indices.slice(0, 3, 1).reshape([]).rem(2)),
            _ => None,
        };
        let mut case = Case { grown: g, outputs, updates: Vec::new(), gate };
        case.single(&gradients);
        case.pair();
        case
    }

    fn update(&mut self, state: usize, value: Var<'g>) {
        match self.grown.below(5) {
            // The new value, or the old one, is an output too.
            0 => self.outputs.push((format!("new{state}"), value)),
            1 => self.outputs.push((format!("old{state}"), self.grown.states[state])),
            _ => {}
        }
        self.updates.push((state, value));
    }

    /// States that are updated by themselves.
    fn single(&mut self, gradients: &[Option<Var<'g>>]) {
        let alone = self.grown.states.len() - 2;
        for (i, gradient) in gradients.iter().take(alone).enumerate() {
            let state = self.grown.states[i];
            let same: Vec<Var<'g>> = self.grown.pool.iter().copied().filter(|v| v.shape() == state.shape()).collect();
            let any = same[self.grown.below(same.len())];
            match (self.grown.below(6), *gradient) {
                (0, _) => {}
                (1, Some(d)) => self.update(i, d),
                (2, Some(d)) => self.update(i, state - d.tanh() * 0.1),
                (3, _) => self.update(i, any.tanh()),
                // In place; it does not heed a gate.
                (4, _) if self.gate.is_none() => {
                    let first = self.grown.indices.slice(0, 5, 1).reshape([]).rem(2);
                    self.update(i, Accumulate { scale: 0.5 }.add(state, any.tanh(), first));
                }
                _ => self.update(i, any),
            }
        }
    }

    /// Two states of one type that read each other.
    fn pair(&mut self) {
        let last = self.grown.states.len() - 2;
        let (i, j) = (last, last + 1);
        let (a, b) = (self.grown.states[i], self.grown.states[j]);
        let shape = a.shape();
        let blend = (a + b * 0.5).tanh();
        let noise = self.grown.graph.gumbel(shape.clone(), 77);
        let reversed: Vec<usize> = (0..shape.len()).rev().collect();
        let (x, y) = match self.grown.below(7) {
            0 => (b, a),
            1 => (blend, blend),
            2 => (noise, noise),
            3 => (blend, a),
            4 => (noise, noise * a),
            // A value that only looks at another state differently.
            5 => (b.permute(&reversed).reshape(shape), blend),
            _ => (noise, noise.permute(&reversed).reshape(shape)),
        };
        self.update(i, x);
        self.update(j, y);
    }

    /// Compiles and runs twice. `by_hand`, the plan only computes the new states and the test writes them: the oracle of
    /// state updates.
    fn run(&mut self, device: &Device, options: Options, by_hand: bool) -> wgrad::Result<Results> {
        let g = &mut self.grown;
        let mut named: Named<'g> = self.outputs.clone();
        if by_hand {
            let next = |(i, v): &(usize, Var<'g>)| (format!("next{i}"), *v);
            named.extend(self.updates.iter().map(next));
            named.extend(self.gate.map(|v| ("gate".to_owned(), v)));
        } else {
            for (i, value) in &self.updates {
                g.graph.assign(g.states[*i], *value);
            }
            self.gate.iter().for_each(|v| g.graph.gate(*v));
        }
        let outputs: Vec<(&str, Var<'_>)> = named.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let plan = pollster::block_on(device.compile_with(g.graph, &outputs, options))?;
        let store = Store::new(device);
        for (name, state) in g.names.iter().zip(&g.states) {
            store.set(name, &values(&state.ty(), Draw::Normal, &mut g.rng)?)?;
        }
        let mut results = Vec::new();
        for run in 0..2 {
            let mut inputs = Vec::new();
            for (name, ty, draw) in &g.inputs {
                inputs.push((name, values(ty, *draw, &mut g.rng)?));
            }
            let mut feed = Feed::new().store(&store).step(run, 0x1234_5678_9abc_def0);
            for (name, tensor) in &inputs {
                feed = feed.input(name, tensor);
            }
            plan.run(&feed)?;
            for (name, _) in &self.outputs {
                results.push((format!("{name} of run {run}"), plan.read_blocking(name)?));
            }
            let open = !by_hand || self.gate.is_none() || plan.read_blocking("gate")?.ints() != [0];
            for (i, _) in self.updates.iter().filter(|_| by_hand && open) {
                store.set(&g.names[*i], &plan.read_blocking(&format!("next{i}"))?)?;
            }
        }
        for name in store.names() {
            let tensor = store.read_blocking(&name)?;
            results.push((name, tensor));
        }
        Ok(results)
    }
}

fn seeds() -> std::ops::Range<u64> {
    let range = std::env::var("WGRAD_GRAPHS").unwrap_or_default();
    match range.split_once("..") {
        Some((a, b)) => a.parse().unwrap_or(0)..b.parse().unwrap_or(50),
        None => 0..50,
    }
}

const ALL: [Options; 4] = [
    Options { fuse: false, reuse: false },
    Options { fuse: false, reuse: true },
    Options { fuse: true, reuse: false },
    Options { fuse: true, reuse: true },
];

fn run(seed: u64, device: &Device, options: Options, by_hand: bool) -> Result<Results, String> {
    let graph = Graph::new();
    Case::new(&graph, seed)
        .run(device, options, by_hand)
        .map_err(|e| format!("graph {seed}, {options:?}, {device}: {e}"))
}

fn compare(
    seed: u64,
    (device, options): (&Device, Options),
    want: &Results,
    tolerance: f64,
) -> Result<Results, String> {
    let got = run(seed, device, options, false)?;
    for ((name, a), (_, b)) in got.iter().zip(want) {
        let d = difference(a, b) * scale(b);
        if d > tolerance {
            return Err(format!("graph {seed}, {options:?}, {device}: {name} {} differs by {d:.1e}", a.ty()));
        }
    }
    Ok(got)
}

/// Gradients that cancel are compared with what cancelled: differences below 0.05 of unit size count in proportion.
fn scale(b: &Tensor) -> f64 {
    let top = b.floats().iter().fold(1e-3f32, |m, x| m.max(x.abs()));
    (f64::from(top) / 0.05).min(1.0)
}

/// All four plans of one device; memory sharing must not change a bit, nor, on the CPU, fusion.
fn device(seed: u64, device: &Device, want: &Results, tolerance: f64) -> Result<(), String> {
    let mut base: Option<Results> = None;
    for options in ALL {
        let got = compare(seed, (device, options), want, tolerance)?;
        let fresh = device.is_gpu() && options == ALL[2];
        if let Some(base) = base.as_ref().filter(|_| !fresh) {
            if let Some(((n, _), _)) = got.iter().zip(base).find(|(a, b)| a != b) {
                return Err(format!("graph {seed}, {options:?}, {device}: {n} differs in bits"));
            }
        } else {
            base = Some(got);
        }
    }
    Ok(())
}

fn check(seed: u64) -> Result<(), String> {
    let oracle = Device::cpu_f64();
    let want = run(seed, &oracle, ALL[0], true)?;
    device(seed, &oracle, &want, 1e-5)?;
    device(seed, &Device::cpu(), &want, 5e-4)?;
    match common::gpu() {
        Some(gpu) => device(seed, gpu, &want, 5e-4),
        None => Ok(()),
    }
}

#[test]
fn random_graphs_agree() {
    let failures: Vec<String> = seeds().filter_map(|seed| check(seed).err()).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Numbers are written into the kernels that use them; they are no steps of their own.
#[test]
fn constants_are_no_steps() {
    for fuse in [false, true] {
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([5]));
        let y = (x * 2.0 + 1.0).tanh();
        let options = Options { fuse, reuse: true };
        let program = Program::build(&graph, &[("y", y)], options).unwrap();
        assert_eq!(program.steps.len(), if fuse { 1 } else { 3 }, "{program}");
    }
}
