//! The product-key memory, with random options, against plain code in double precision: values, and the gradient by input and
//! parameters along a random direction. Tables whole, in pieces and rounded. Seeds are fixed; `WGRAD_ORACLE_CASES=n` runs
//! n cases.

#[path = "../common/mod.rs"]
mod common;
mod oracle;
#[allow(dead_code)]
#[path = "../conditional_oracle/plain.rs"]
mod plain;

use common::modules::{noise, run};
use oracle::{Oracle, Statistics};
use plain::{Rows, dot};
use std::collections::BTreeMap;
use wgrad::graph::Mode;
use wgrad::models::product_key::{KeyScore, Lookup, ProductKeyConfig, ProductKeyMemory};
use wgrad::nn::{Params, Quantization};
use wgrad::ops::route::soft_top_k::{DifferentiableTopK, SoftTopK};
use wgrad::{Tensor, Var};

/// Scores nearer to each other than this may be told apart otherwise in single precision: such cases are left out.
const MARGIN: f64 = 1e-5;
/// Tokens of a call.
const TOKENS: usize = 5;
const STEP: f64 = 1e-6;

/// Knuth's linear congruential generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }

    fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn unit(&mut self) -> f64 {
        self.below(2001) as f64 / 1000.0 - 1.0
    }

    fn config(&mut self) -> ProductKeyConfig {
        let num_keys = self.one_of(&[1, 2, 3, 5, 8, 13]);
        let product = self.below(4) == 0;
        let how = [SoftTopK::exact(0.5), SoftTopK::learnable(), SoftTopK::iterations(20, 0.5)];
        let soft = [DifferentiableTopK::default(), DifferentiableTopK::learnable()];
        let concat = self.flip();
        ProductKeyConfig {
            heads: self.one_of(&[1, 2, 3]),
            num_keys,
            topk: self.one_of(&[1, num_keys, 1 + num_keys / 2]),
            dim_head: self.one_of(&[2, 3, 4, 7]),
            use_layernorm: self.below(3) > 0,
            pre_layernorm: self.flip(),
            concat_values_and_combine: concat,
            drop_gates: concat && self.below(4) == 0,
            norm_output: self.flip(),
            non_competitive_gates: self.flip(),
            differentiable_topk: (!product && self.flip()).then(|| self.one_of(&soft)),
            score: if product { KeyScore::Product(self.one_of(&how)) } else { KeyScore::Sum },
            ..ProductKeyConfig::new(self.one_of(&[3, 6, 9]))
        }
    }

    /// Any subset, all, or nothing of `n`.
    fn mask(&mut self, n: usize) -> Tensor {
        let kind = self.below(4);
        let mut at = |_| match kind {
            0 => 0,
            1 => 1,
            _ => u32::from(self.flip()),
        };
        Tensor::u32([n], (0..n).map(&mut at).collect()).unwrap()
    }
}

fn wide(t: &Tensor) -> Vec<f64> {
    t.floats().iter().map(|v| f64::from(*v)).collect()
}

fn rows(numbers: &[f64], dim: usize) -> Rows {
    numbers.chunks(dim).map(<[f64]>::to_vec).collect()
}

/// `sum(y sin(y))`.
fn loss(y: &Rows) -> f64 {
    y.iter().flatten().map(|y| y * y.sin()).sum()
}

#[track_caller]
fn close(what: &str, got: f64, want: f64) {
    let error = (got - want).abs() / (1.0 + want.abs());
    assert!(error < 2e-3, "{what}: {got} instead of {want}");
}

/// A layer whose parameters are all random, so that no bias is 0 and no gain 1.
fn layer(config: &ProductKeyConfig, case: u32) -> (ProductKeyMemory, Params) {
    let mut params = Params::new(u64::from(case));
    let layer = ProductKeyMemory::new(&mut params, "", config.clone()).unwrap();
    let moved: Vec<(String, Tensor)> = params
        .values()
        .map(|(name, value)| {
            let some = noise(value.shape(), case + name.len() as u32);
            let vary = |(v, n): (&f32, &f32)| if name.ends_with("_var") { 0.5 + n * n } else { v + 0.3 * n };
            let values = value.floats().iter().zip(some.floats()).map(vary).collect();
            (name.to_owned(), Tensor::f32(value.shape().clone(), values).unwrap())
        })
        .collect();
    moved.into_iter().for_each(|(name, value)| params.set(&name, value).unwrap());
    (layer, params)
}

struct Case {
    what: String,
    config: ProductKeyConfig,
    layer: ProductKeyMemory,
    params: Params,
    mode: Mode,
    x: Tensor,
    noise: Option<Tensor>,
    /// Tokens that count, slots that are trained.
    masks: [Tensor; 2],
    masked: [bool; 2],
}

impl Case {
    fn new(case: u32, random: &mut Random) -> Self {
        let config = random.config();
        let (layer, mut params) = layer(&config, case);
        let (rows, width) = (config.slots() as u64, config.width() as u64);
        // Whole, or pieces of some rows, the other parameters in states that hold them.
        if random.flip() {
            let others = params.iter().filter(|p| p.name() != "values.weight").map(|p| 4 * p.shape().numel() as u64);
            let least = others.max().unwrap_or(0);
            params.separate("default");
            params.limit(least.max(4 * width * (1 + random.below(rows as usize) as u64)));
        }
        let shape = [TOKENS, config.heads, 2, config.num_keys];
        let noise_of = random.flip().then(|| noise(&shape, case + 77));
        let masks = [random.mask(TOKENS), random.mask(config.slots())];
        let masked = [random.flip(), random.flip()];
        let mode = random.one_of(&[Mode::Train, Mode::Eval]);
        let what = format!("case {case}: {mode:?} noise {} masked {masked:?} {config:?}", noise_of.is_some());
        let x = noise(&[TOKENS, config.dim], case);
        Case { what, config, layer, params, mode, x, noise: noise_of, masks, masked }
    }

    fn lookup<'g>(&self, x: &[Var<'g>]) -> Lookup<'g> {
        let lookup = Lookup::new(self.mode, 0).gumbel(if self.noise.is_some() { 0.5 } else { 0.0 });
        Lookup {
            input_mask: self.masked[0].then(|| x[1]),
            mem_trainable_mask: self.masked[1].then(|| x[2]),
            gumbel_noise: self.noise.as_ref().map(|_| x[3]),
            ..lookup
        }
    }

    fn inputs<'a>(&'a self, none: &'a Tensor) -> [(&'a str, &'a Tensor); 4] {
        let noise = self.noise.as_ref().unwrap_or(none);
        [("x", &self.x), ("tokens", &self.masks[0]), ("slots", &self.masks[1]), ("noise", noise)]
    }

    /// Values as `params` has them.
    fn oracle<'a>(&'a self, params: &Params, all: &'a [u32]) -> Oracle<'a> {
        let values = params.values().map(|(name, value)| (name.to_owned(), wide(&value))).collect();
        let tokens = if self.masked[0] { self.masks[0].ints() } else { all };
        let statistics = if self.mode == Mode::Train { Statistics::Batch(tokens) } else { Statistics::Running };
        let noise = self.noise.as_ref().map(|n| wide(n).iter().map(|n| 0.5 * n).collect());
        Oracle::new(&self.config, values, statistics, noise)
    }

    /// Whether what is selected is clear.
    fn check(&self, random: &mut Random) -> bool {
        let (x, none, all) = (wide(&self.x), Tensor::f32([0], Vec::new()).unwrap(), [1; TOKENS]);
        let mut oracle = self.oracle(&self.params, &all);
        let want = oracle.forward(&rows(&x, self.config.dim));
        if oracle.margin.get() < MARGIN {
            return false;
        }
        let names: Vec<String> = self.params.iter().filter(|p| p.is_trainable()).map(|p| p.name().to_owned()).collect();
        let start: BTreeMap<String, Vec<f64>> = oracle.values.clone();
        let mut direction = |n: usize| (0..n).map(|_| random.unit()).collect::<Vec<f64>>();
        let toward = direction(x.len());
        let directions: Vec<Vec<f64>> = names.iter().map(|name| direction(start[name].len())).collect();
        let width = self.config.width();
        let mut moved = |h: f64| {
            for (name, d) in names.iter().zip(&directions) {
                // Slots that are not trained stay.
                let frozen =
                    |i: usize| name == "values.weight" && self.masked[1] && self.masks[1].ints()[i / width] == 0;
                let step = |(i, (v, d)): (usize, (&f64, &f64))| if frozen(i) { *v } else { v + h * d };
                oracle.values.insert(name.clone(), start[name].iter().zip(d).enumerate().map(step).collect());
            }
            let x: Vec<f64> = x.iter().zip(&toward).map(|(x, d)| x + h * d).collect();
            loss(&oracle.forward(&rows(&x, self.config.dim)))
        };
        let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        for device in common::devices() {
            let what = format!("{} on {device}", self.what);
            let build = || {
                run(&device, &self.params, &self.inputs(&none), |p, v| {
                    let y = self.layer.forward(p, v[0], &self.lookup(v));
                    let mut wrt = vec![v[0]];
                    for name in &names {
                        let table = name == "values.weight";
                        wrt.extend(if table { p.sharded(name).shards().to_vec() } else { vec![p.get(name)] });
                    }
                    let grads = p.graph().grad((y.sin() * y).sum_all(), &wrt);
                    let dense = grads.iter().zip(&wrt).map(|(g, w)| g.dense().unwrap_or(*w * 0.0));
                    std::iter::once(y).chain(dense).collect()
                })
            };
            let got = build();
            assert_eq!(got, build(), "{what}: not repeatable");
            for (got, want) in got[0].floats().iter().zip(want.iter().flatten()) {
                close(&what, f64::from(*got), *want);
            }
            // The pieces of the table one after the other are the table.
            let gradient: Vec<f64> = got[1..].iter().flat_map(wide).collect();
            let direction: Vec<f64> = toward.iter().chain(directions.iter().flatten()).copied().collect();
            assert_eq!(gradient.len(), direction.len());
            close(&format!("slope of {what}"), dot(&gradient, &direction), slope);
        }
        true
    }

    /// The same with a rounded table: as if it held what rounding left.
    fn check_rounded(&self, how: Quantization) -> bool {
        let (none, all) = (Tensor::f32([0], Vec::new()).unwrap(), [1; TOKENS]);
        let mut params = self.params.clone();
        params.get_mut("values.weight").unwrap().quantized(how);
        let oracle = self.oracle(&self.params, &all);
        let want = oracle.forward(&rows(&wide(&self.x), self.config.dim));
        if oracle.margin.get() < MARGIN {
            return false;
        }
        let bound = match how {
            Quantization::F16 => 4e-3,
            Quantization::Int8 => 6e-2,
        };
        for device in common::devices() {
            let got =
                run(&device, &params, &self.inputs(&none), |p, v| vec![self.layer.forward(p, v[0], &self.lookup(v))]);
            let most = want.iter().flatten().fold(1.0, |m: f64, v| m.max(v.abs()));
            for (got, want) in got[0].floats().iter().zip(want.iter().flatten()) {
                let error = (f64::from(*got) - want).abs() / most;
                assert!(error < bound, "{} {how:?} on {device}: {got} instead of {want}", self.what);
            }
        }
        true
    }
}

/// Random options, whole and in pieces.
#[test]
fn layers() {
    let mut random = Random(3);
    let cases = std::env::var("WGRAD_ORACLE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(32);
    let clear = (0..cases).filter(|case| Case::new(*case, &mut random).check(&mut random)).count();
    assert!(clear * 4 >= cases as usize * 3, "{clear} of {cases}");
}

/// Rounded tables, without the norm of the output: it would blow up errors of small outputs.
#[test]
fn rounded_layers() {
    let mut random = Random(9);
    let rounded = |case: &u32| {
        let mut case = Case::new(*case, &mut random);
        case.config.norm_output = false;
        case.layer = ProductKeyMemory::new(&mut Params::new(0), "", case.config.clone()).unwrap();
        let how = random.one_of(&[Quantization::F16, Quantization::Int8]);
        case.check_rounded(how)
    };
    let clear = (0..20).filter(rounded).count();
    assert!(clear >= 15, "{clear}");
}
