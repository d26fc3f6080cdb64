//! Graphs built with random arguments, most of them wrong: the error says where it was made, compiling gives the same
//! one, and nothing panics. What happens to be valid runs.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use wgrad::graph::{Factors, Rows};
use wgrad::nn::{Sharded, ShardedType};
use wgrad::ops::attention::Attention;
use wgrad::ops::attention::descent::DescentAttention;
use wgrad::ops::attention::local::{LocalAttention, Tail};
use wgrad::ops::optim::{Accumulate, Adam, Common, Controls, Pack, Sgd, Tally};
use wgrad::ops::rotary::{Rotary, XPos};
use wgrad::ops::route::sinkhorn::{Sinkhorn, SinkhornGradient};
use wgrad::ops::route::soft_top_k::{DifferentiableTopK, SoftTopK};
use wgrad::ops::select::{Sampling, SamplingVars};
use wgrad::{DType, Device, Feed, Graph, Mode, Store, Tensor, TensorType, Var};

/// Larger graphs are built, but not run.
const LARGEST: usize = 1 << 16;

struct Wild<'g> {
    graph: &'g Graph,
    rng: ChaCha8Rng,
    pool: Vec<Var<'g>>,
}

impl<'g> Wild<'g> {
    fn new(graph: &'g Graph, seed: u64) -> Self {
        let mut w = Wild { graph, rng: ChaCha8Rng::seed_from_u64(seed), pool: Vec::new() };
        for i in 0..5 {
            let shape = w.shape();
            let ty = if i % 2 == 0 { TensorType::f32(shape) } else { TensorType::u32(shape) };
            let name = format!("x{i}");
            w.pool.push(if i < 3 { graph.input(&name, ty) } else { graph.state(&name, ty) });
        }
        w
    }

    fn shape(&mut self) -> Vec<usize> {
        let rank = self.rng.random_range(0..5);
        (0..rank).map(|_| [1, 2, 3, 4, 4, 4, 5, 0][self.rng.random_range(0..8)]).collect()
    }

    /// Mostly small, sometimes anything.
    fn size(&mut self) -> usize {
        const ODD: [usize; 8] = [100, 65_536, u32::MAX as usize, 1 << 33, usize::MAX, usize::MAX / 2, 1 << 62, 1000];
        if self.rng.random_range(0..8) == 0 { ODD[self.rng.random_range(0..8)] } else { self.rng.random_range(0..6) }
    }

    fn sizes(&mut self) -> Vec<usize> {
        (0..self.rng.random_range(0..5)).map(|_| self.size()).collect()
    }

    fn real(&mut self) -> f64 {
        const ODD: [f64; 7] = [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, -1e-300, 1e30];
        if self.rng.random_range(0..4) == 0 { ODD[self.rng.random_range(0..7)] } else { self.rng.random() }
    }

    fn axis(&mut self) -> isize {
        let axis = self.rng.random_range(-4..5i64) as isize;
        if self.rng.random_range(0..20) == 0 { [isize::MIN, isize::MAX][usize::from(axis > 0)] } else { axis }
    }

    fn yes(&mut self) -> bool {
        self.rng.random()
    }

    fn var(&mut self) -> Var<'g> {
        self.pool[self.rng.random_range(0..self.pool.len())]
    }

    fn maybe(&mut self) -> Option<Var<'g>> {
        if self.yes() { Some(self.var()) } else { None }
    }

    fn text(&mut self) -> String {
        let letters: Vec<char> = "abcd->,.-> é→".chars().collect();
        if self.yes() {
            return ["ab->ba", "ab,bc->ac", "a->", "aa->a", "abcd,abed->abce", "ab,ab", "->"]
                [self.rng.random_range(0..7)]
            .to_owned();
        }
        (0..self.rng.random_range(0..9)).map(|_| letters[self.rng.random_range(0..letters.len())]).collect()
    }

    fn attention(&mut self) -> Attention<'g> {
        Attention {
            scale: if self.yes() { Some(self.real()) } else { None },
            causal: self.yes(),
            window: if self.yes() { Some(self.size()) } else { None },
            mask: self.maybe(),
            valid: self.maybe(),
        }
    }

    fn soft(&mut self) -> SoftTopK {
        let how =
            if self.yes() { SoftTopK::exact(self.real()) } else { SoftTopK::iterations(self.size(), self.real()) };
        how.scaled(self.real(), self.real())
    }

    fn controls(&mut self) -> Controls<'g> {
        Controls { lr: self.var(), norm_sq: self.var(), ok: self.var(), progress: self.var() }
    }

    fn hits(&mut self, rows: usize) -> Rows<'g> {
        let factors = if self.yes() { Some(Factors { weights: self.var(), per: self.size() }) } else { None };
        Rows { indices: self.var(), values: self.var(), rows, factors }
    }

    fn common(&mut self) -> Common {
        Common { max_norm: self.real(), lr_factor: self.real(), weight_decay: self.real() }
    }

    /// One operation with arguments of the right kind and any value.
    fn step(&mut self) {
        let x = self.var();
        let made = match self.rng.random_range(0..4) {
            0 => self.simple(x),
            1 => self.arrange(x),
            2 => self.rows(x),
            _ => self.layers(x),
        };
        self.pool.extend(made);
    }

    fn simple(&mut self, x: Var<'g>) -> Vec<Var<'g>> {
        let (y, z) = (self.var(), self.var());
        vec![match self.rng.random_range(0..26) {
            0 => x + y,
            1 => x - 0.5,
            2 => x * 3u32,
            3 => x / y,
            4 => -x,
            5 => x.exp(),
            6 => x.gelu(),
            7 => x.rem(y),
            8 => x.shl(y),
            9 => x.maximum(y),
            10 => x.select(y, z),
            11 => x.keep_where(y, self.real()),
            12 => x.lt(y),
            13 => x.to_u32(),
            14 => x.to_f32(),
            15 => x.is_finite(),
            16 => x.straight_through(y),
            17 => x.dropout(self.real(), 1, Mode::Train),
            18 => self.graph.full(self.shape(), self.real()),
            19 => self.graph.full(self.sizes(), 1.0),
            20 => self.graph.iota(self.sizes(), self.size()),
            21 => self.graph.uniform(self.sizes(), 1),
            22 => self.graph.recompute(|| x.pow(y)),
            23 => {
                let name = format!("x{}", self.size());
                self.graph.input(&name, TensorType::f32(self.sizes()))
            }
            24 => x.square().stop_gradient(),
            _ => {
                let text = self.text();
                let operands: Vec<Var<'g>> = (0..self.rng.random_range(0..4)).map(|_| self.var()).collect();
                self.graph.einsum(&text, &operands)
            }
        }]
    }

    fn arrange(&mut self, x: Var<'g>) -> Vec<Var<'g>> {
        let (y, z) = (self.var(), self.var());
        let (a, b, c, d) = (self.size(), self.size(), self.size(), self.size());
        vec![match self.rng.random_range(0..22) {
            0 => x.reshape(self.sizes()),
            1 => x.permute(&self.sizes()),
            2 => x.transpose(self.axis(), self.axis()),
            3 => x.slice(a, b, c),
            4 => x.slice_step(a, b, c, d),
            5 => x.select_index(a, b),
            6 => x.expand(self.sizes()),
            7 => x.unsqueeze(a),
            8 => x.concat(&[y, z], a),
            9 => x.pad(a, b, c),
            10 => x.dilate(a, b),
            11 => x.contiguous(),
            12 => x.gather(y),
            13 => x.scatter_add(y, a),
            14 => x.take_along(y, self.axis()),
            15 => x.scatter_along(y, self.axis(), a),
            16 => x.sort_pairs(self.yes().then_some(a as u32)).0,
            17 => x.write_rows(y, z),
            18 => x.write_rows_if(self.var(), y, z),
            19 => x.take_rows(y, a),
            20 => {
                let hits = self.hits(a);
                if self.yes() { hits.dense() } else { hits.square_sum() }
            }
            _ => {
                let dtype = if self.yes() { DType::F32 } else { DType::U32 };
                match ShardedType::with_limit(dtype, a, b.min(1 << 20), self.size() as u64) {
                    // As many pieces as can be built.
                    Ok(ty) if ty.shards().len() < 50 => {
                        let table =
                            if self.yes() { Sharded::scatter_add(&ty, x, y) } else { ty.input(self.graph, "table") };
                        if self.yes() { table.gather(z) } else { table.score(z) }
                    }
                    _ => x,
                }
            }
        }]
    }

    fn rows(&mut self, x: Var<'g>) -> Vec<Var<'g>> {
        let (y, z) = (self.var(), self.var());
        let (a, k) = (self.size(), self.size());
        vec![match self.rng.random_range(0..24) {
            0 => x.sum(a),
            1 => x.max(a),
            2 => x.mean(a),
            3 => x.sum_all(),
            4 => x.mean_all(),
            5 => x.sum_to(self.sizes()),
            6 => x.softmax(a),
            7 => x.logsumexp(a),
            8 => x.argmax(a),
            9 => x.cumsum(a),
            10 => x.cumsum_reverse(a, self.yes()),
            11 => x.layer_norm(self.maybe(), self.maybe(), self.real()),
            12 => x.rms_norm(self.maybe()),
            13 => x.l2_normalize(self.real()),
            14 => return vec![x.top_k(k).values, x.top_k(k).indices],
            15 => x.top_k_masked(k, y).values,
            16 => x.cross_entropy(y, self.yes().then_some(k as i64)),
            17 => x.cross_entropy_mean(y, None),
            18 => {
                let temperature = self.real() as f32;
                let top_p = if self.yes() { Some(self.real() as f32) } else { None };
                x.sample(&Sampling { temperature, top_k: self.yes().then_some(k), top_p }, 3)
            }
            19 => x.sample_with(SamplingVars { temperature: y, top_k: z, top_p: self.var() }, k, 1),
            20 => x.square_sum(),
            21 => Accumulate { scale: self.real() }.add(x, y, z),
            22 => return self.optimize(x),
            _ => {
                let places = self.sizes();
                Pack { places, len: a }.pack(self.graph, &[x, y])
            }
        }]
    }

    fn optimize(&mut self, x: Var<'g>) -> Vec<Var<'g>> {
        let (y, z) = (self.var(), self.var());
        let (common, controls) = (self.common(), self.controls());
        let count = self.size();
        let (rows, held) = (self.hits(count), self.size()..self.size());
        let adam = Adam { common, decoupled: true, beta1: self.real(), beta2: self.real(), eps: self.real() };
        let sgd = Sgd { common, momentum: self.real(), nesterov: self.yes() };
        match self.rng.random_range(0..5) {
            0 => adam.step(x, [y, z], self.var(), &controls),
            1 => adam.step_rows(x, [y, z], self.maybe(), &rows, held, &controls),
            2 => sgd.step(x, self.maybe(), z, &controls),
            3 => sgd.step_rows(x, self.maybe(), &rows, held, &controls),
            _ => Tally::count(x, y, z, self.var()),
        }
    }

    fn layers(&mut self, x: Var<'g>) -> Vec<Var<'g>> {
        let (y, z, k) = (self.var(), self.var(), self.size());
        vec![match self.rng.random_range(0..20) {
            0 | 1 => x.matmul(y),
            17 => x.product_top_k(y, k).values,
            18 => x.weighted_gather(y, z),
            19 => x.weighted_gather_masked(y, z, self.var()),
            2 => x.attention(y, z, &self.attention()).out,
            3 => x.attention_composed(y, z, &self.attention(), |p| p),
            4 => {
                let (window, causal, mask) = (self.size(), self.yes(), self.maybe());
                let tail = if self.yes() { Tail::Visible } else { Tail::Masked };
                x.local_attention(y, z, &LocalAttention { window, causal, scale: Some(self.real()), tail, mask })
            }
            5 => {
                let rows = if self.yes() { Some(self.size()) } else { None };
                let options = DescentAttention {
                    attention: self.attention(),
                    k: self.real().into(),
                    how: self.soft(),
                    normalize: self.yes(),
                    rows,
                };
                x.descent_attention(y, z, &options)
            }
            6 => {
                let xpos = XPos { center: 3, scale_base: self.real(), invert: self.yes() };
                let dim = if self.yes() { Some(self.size()) } else { None };
                let theta = self.real();
                x.rotary(y, &Rotary { dim, theta, xpos: self.yes().then_some(xpos), ..Rotary::default() })
            }
            7 => x.soft_top_k(self.real(), &self.soft(), self.maybe()),
            8 => x.soft_top_k(y, &self.soft(), self.maybe()),
            9 => {
                let options = DifferentiableTopK { ratio: self.real() * 2.0, how: self.soft() };
                x.differentiable_top_k(k, &options, self.maybe()).values
            }
            10 | 11 => x.sinkhorn(&self.sinkhorn(), self.maybe()),
            12 => x.gumbel_sinkhorn(y, &self.sinkhorn()),
            13 => x.cumulative_softmax(k, self.real(), self.maybe()).scores,
            14 => return self.graph.grad(x, &[y, z]).iter().filter_map(|g| g.dense()).collect(),
            15 => return self.graph.vjp(&[(x, y)], &[z]).iter().filter_map(|g| g.dense()).collect(),
            _ => {
                let like = self.graph.grad(x.tanh().sum_all(), &[y]);
                self.graph.assign(y, z);
                if self.yes() {
                    self.graph.gate(z);
                }
                return like.iter().filter_map(|g| g.dense()).collect();
            }
        }]
    }

    fn sinkhorn(&mut self) -> Sinkhorn {
        let iterations = self.size().min(50);
        let gradient = SinkhornGradient::Implicit { iterations: self.size().min(50) };
        Sinkhorn {
            iterations,
            temperature: self.real(),
            gumbel: self.yes().then_some(2),
            gradient: if self.yes() { gradient } else { SinkhornGradient::Unrolled },
        }
    }
}

/// Whether every value of the graph is small enough to run.
fn small(graph: &Graph) -> bool {
    let text = graph.to_string();
    let shapes = text.split(['[', '\n']).filter_map(|part| part.split_once(']')).map(|(shape, _)| shape);
    let numel = |s: &str| s.split(", ").filter_map(|d| d.parse::<usize>().ok()).fold(1, usize::saturating_mul);
    shapes.map(numel).all(|n| n <= LARGEST)
}

/// What became of a graph.
#[derive(PartialEq)]
enum Fate {
    Refused,
    Ran,
    TooLarge,
}

fn try_graph(seed: u64) -> Result<Fate, String> {
    let graph = Graph::new();
    let mut wild = Wild::new(&graph, seed);
    let steps = wild.rng.random_range(1..9);
    let mut first = None;
    for _ in 0..steps {
        wild.step();
        if let (None, Some(error)) = (&first, graph.error()) {
            let text = error.to_string();
            if !text.contains("invalid_programs.rs:") {
                return Err(format!("not located: {text}"));
            }
            first = Some(text);
        }
    }
    let y = wild.var();
    let loss = if y.dtype() == DType::F32 { y.sum_all() } else { y.to_f32().sum_all() };
    let gradients: Vec<Var<'_>> = graph.grad(loss, &wild.pool[..5]).iter().filter_map(|g| g.dense()).collect();
    let after = graph.error().map(|e| e.to_string());
    if first.is_some() && after != first {
        return Err(format!("{first:?} became {after:?}"));
    }
    let names: Vec<String> = (0..gradients.len()).map(|i| format!("g{i}")).collect();
    let mut outputs: Vec<(&str, Var<'_>)> = names.iter().map(String::as_str).zip(gradients).collect();
    outputs.push(("y", y));
    if after.is_none() && !small(&graph) {
        return Ok(Fate::TooLarge);
    }
    let device = Device::cpu();
    let compiled = device.compile_blocking(&graph, &outputs);
    let plan = match (compiled, after) {
        (Err(error), Some(after)) if error.to_string() == after => return Ok(Fate::Refused),
        (Ok(plan), None) => plan,
        (Err(error), after) => return Err(format!("compiling: {error}; the graph: {after:?}")),
        (Ok(_), Some(after)) => return Err(format!("compiled in spite of {after}")),
    };
    let store = Store::new(&device);
    let mut inputs = Vec::new();
    for i in 0..5 {
        let (name, ty) = (format!("x{i}"), wild.pool[i].ty());
        let data = Tensor::zeros(&ty);
        if i < 3 {
            inputs.push((name, data));
        } else {
            store.set(&name, &data).map_err(|e| e.to_string())?;
        }
    }
    let mut feed = Feed::new().store(&store);
    for (name, tensor) in &inputs {
        feed = feed.input(name, tensor);
    }
    // Inputs that an operation declared may be missing: an error as well.
    match plan.run(&feed) {
        Ok(()) => Ok(Fate::Ran),
        Err(wgrad::Error::Name { .. }) => Ok(Fate::Refused),
        Err(error) => Err(error.to_string()),
    }
}

/// Graphs that once panicked, or had errors without a place.
const KEPT: [u64; 5] = [137_486, 138_019, 199_699, 405_867, 2748];

/// Tries seeds; gives what went wrong, and how many were refused and ran.
fn try_all(seeds: impl Iterator<Item = u64>) -> (Vec<String>, [u64; 3]) {
    let mut failures = Vec::new();
    let mut counts = [0; 3];
    for seed in seeds {
        let caught = catch_unwind(AssertUnwindSafe(|| try_graph(seed)));
        match caught {
            Ok(Ok(fate)) => counts[fate as usize] += 1,
            Ok(Err(message)) => failures.push(format!("seed {seed}: {message}")),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                let text = panic.downcast_ref::<&str>().map_or(text, |s| (*s).to_owned());
                failures.push(format!("seed {seed}: panic: {text}"));
            }
        }
        if failures.len() >= 40 {
            break;
        }
    }
    (failures, counts)
}

#[test]
fn wrong_arguments_are_errors_with_their_place() {
    let (failures, counts) = try_all((0..40_000).chain(KEPT));
    println!("{counts:?} graphs refused, ran, too large");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
#[ignore = "runs as long as it is told to"]
fn fuzz() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let end = Instant::now() + Duration::from_secs(60 * number("WGRAD_FUZZ_MINUTES").unwrap_or(1));
    let first = number("WGRAD_FUZZ_SEED").unwrap_or(1_000_000);
    let (failures, counts) = try_all((first..).take_while(|_| Instant::now() < end));
    println!("from seed {first} on: {counts:?} graphs refused, ran, too large; {} failures", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
