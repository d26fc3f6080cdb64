//! Random options and inputs, and the comparison.

use crate::common;
use crate::common::modules::run;
use crate::oracle::Oracle;
use crate::plain::Rows;
use std::collections::BTreeMap;
use wgrad::models::conditional::{AttentionConfig, CoordinateDescentRouterConfig, RouterConfig, Similarity};
use wgrad::nn::{ParamVars, Params};
use wgrad::ops::attention::local::Tail;
use wgrad::ops::route::soft_top_k::{SoftTopK, Start};
use wgrad::{Tensor, Var};

/// Features of a token.
pub const DIM: usize = 12;
/// Sequences of a batch.
pub const BATCH: usize = 3;

/// Cases of a test: `default`, or as many as `WGRAD_ORACLE_CASES` says.
pub fn cases(default: u32) -> std::ops::Range<u32> {
    0..std::env::var("WGRAD_ORACLE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Knuth's linear congruential generator.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }

    pub fn flip(&mut self) -> bool {
        self.below(2) == 1
    }

    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// Tokens that are routed, sometimes as many as a sequence has.
    pub fn count(&mut self) -> usize {
        [1, 2, 3, 3, 4, 5, 6, 7, 7, 9][self.below(10)]
    }

    pub fn router(&mut self) -> CoordinateDescentRouterConfig {
        CoordinateDescentRouterConfig {
            straight_through: self.flip(),
            how: self.one_of(&[
                SoftTopK::learnable(),
                SoftTopK::exact(0.2),
                SoftTopK::iterations(20, 0.3).scaled(4.0, 0.7),
                SoftTopK::iterations(9, 0.5).starting(Start::Relu),
            ]),
            fetch_k_ratio: self.one_of(&[1.0, 1.125]),
            similarity: self.one_of(&[Similarity::Dot, Similarity::Cosine { scale: 3.0 }, Similarity::UnitCosine]),
            route_block_size: self.one_of(&[None, None, Some(5), Some(8), Some(40)]),
            route_equal: self.flip(),
            ..CoordinateDescentRouterConfig::default()
        }
    }

    pub fn attention(&mut self, router: &CoordinateDescentRouterConfig) -> AttentionConfig {
        AttentionConfig {
            light_dim_head: 5,
            light_heads: 2,
            light_window_size: self.one_of(&[6, 8, 11]),
            heavy_dim_head: 6,
            heavy_heads: 4,
            num_routed_kv: self.one_of(&[1, 2, 4]),
            has_light_attn: self.flip(),
            light_tail: self.one_of(&[Tail::Visible, Tail::Masked]),
            router: RouterConfig::from(router.clone()),
            multiply_keys_by_score: self.flip(),
            multiply_queries_by_score: self.flip(),
            use_null_q_tokens: self.flip(),
            use_null_kv: self.flip(),
            rotary_emb: self.flip(),
            ..AttentionConfig::new(DIM, self.count(), self.count())
        }
    }

    /// Masks of a batch, or none: all tokens, any, the first two, all but the last four; perhaps none of a sequence.
    pub fn masks(&mut self, n: usize) -> Option<Vec<Vec<bool>>> {
        if self.below(3) == 0 {
            return None;
        }
        let mut mask = |_| {
            let kind = self.below(5);
            let exists = |i: usize| match kind {
                0 => true,
                1 => self.flip(),
                2 => i < 2,
                3 => i + 4 < n,
                _ => false,
            };
            (0..n).map(exists).collect()
        };
        Some((0..BATCH).map(&mut mask).collect())
    }

    /// Counts of a batch, up to `k`, or none.
    pub fn counts(&mut self, k: usize) -> Option<Vec<usize>> {
        (self.below(3) == 0).then(|| (0..BATCH).map(|_| self.below(k + 1)).collect())
    }
}

/// A mask as a tensor; ones if there is none.
pub fn mask_tensor(mask: &Option<Vec<Vec<bool>>>, n: usize) -> Tensor {
    let at = |i: usize| u32::from(mask.as_ref().is_none_or(|mask| mask[i / n][i % n]));
    Tensor::u32([BATCH, n], (0..BATCH * n).map(at).collect()).unwrap()
}

/// Counts as a tensor; zeros if there are none.
pub fn count_tensor(counts: &Option<Vec<usize>>) -> Tensor {
    let at = |i: usize| counts.as_ref().map_or(0, |c| c[i] as u32);
    Tensor::u32([BATCH], (0..BATCH).map(at).collect()).unwrap()
}

/// The sequences of a tensor `[b, n, DIM]` of numbers.
pub fn sequences(numbers: &[f64]) -> Vec<Rows> {
    let rows: Rows = numbers.chunks(DIM).map(<[f64]>::to_vec).collect();
    rows.chunks(rows.len() / BATCH).map(<[Vec<f64>]>::to_vec).collect()
}

/// A case: inputs of which the first is differentiated, and the rows `[b, n]` of the output that matter.
pub struct Case<'a> {
    pub what: String,
    pub params: &'a Params,
    pub inputs: &'a [(&'a str, &'a Tensor)],
    pub live: Tensor,
}

/// `sum(y sin(y))` over the rows that matter.
fn loss(y: &[Rows], live: &[u32]) -> f64 {
    let rows = y.iter().flatten().zip(live).filter(|(_, live)| **live == 1);
    rows.flat_map(|(row, _)| row).map(|y| y * y.sin()).sum()
}

fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    let error = (got - want).abs() / (1.0 + want.abs());
    assert!(error < tolerance, "{what}: {got} instead of {want}");
}

impl Case<'_> {
    /// Compares values, and the gradient by input and parameters along a random direction, on all devices.
    /// `plain` gets the first input.
    pub fn check(
        &self,
        module: impl for<'g> Fn(&ParamVars<'g>, &[Var<'g>]) -> Var<'g>,
        plain: impl Fn(&Oracle, &[f64]) -> Vec<Rows>,
    ) {
        let trainable = || self.params.iter().filter(|p| p.is_trainable());
        let names: Vec<String> = trainable().map(|p| p.name().to_owned()).collect();
        let wide = |t: &Tensor| t.floats().iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let value = |name: &String| (name.clone(), wide(&self.params.value(name).unwrap()));
        let values: BTreeMap<String, Vec<f64>> = names.iter().map(value).collect();
        let x = wide(self.inputs[0].1);
        let mut random = Random(x.len() as u64);
        let mut direction = |v: &Vec<f64>| v.iter().map(|_| random.below(2001) as f64 / 1000.0 - 1.0).collect();
        let mut directions: Vec<Vec<f64>> = vec![direction(&x)];
        directions.extend(names.iter().map(|name| direction(&values[name])));

        let mut oracle = Oracle::new(values.clone(), DIM);
        let want = plain(&oracle, &x);
        let live = self.live.ints();
        let mut moved = |h: f64| {
            let step = |v: &[f64], d: &[f64]| v.iter().zip(d).map(|(v, d)| v + h * d).collect::<Vec<f64>>();
            oracle.rewind();
            oracle.values = names.iter().zip(&directions[1..]).map(|(n, d)| (n.clone(), step(&values[n], d))).collect();
            loss(&plain(&oracle, &step(&x, &directions[0])), live)
        };
        const STEP: f64 = 1e-6;
        let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);

        for device in common::devices() {
            let what = format!("{} on {device}", self.what);
            let got = run(&device, self.params, self.inputs, |p, v| {
                let y = module(p, v);
                let live = p.graph().constant(self.live.clone()).to_f32().unsqueeze(2);
                let wrt: Vec<Var<'_>> = v[..1].iter().copied().chain(names.iter().map(|name| p.get(name))).collect();
                let grads = p.graph().grad((y.sin() * y * live).sum_all(), &wrt);
                let dense = grads.iter().zip(&wrt).map(|(g, w)| g.dense().unwrap_or(*w * 0.0));
                std::iter::once(y).chain(dense).collect()
            });
            let rows = got[0].floats().chunks(DIM).zip(want.iter().flatten()).zip(live);
            for ((got, want), _) in rows.filter(|(_, live)| **live == 1) {
                got.iter().zip(want).for_each(|(g, w)| close(&what, f64::from(*g), *w, 2e-3));
            }
            let products = got[1..].iter().zip(&directions).map(|(g, d)| crate::plain::dot(&wide(g), d));
            close(&format!("slope of {what}"), products.sum(), slope, 2e-3);
            assert!(got.iter().all(|t| t.floats().iter().all(|v| v.is_finite())), "{what}: not finite");
        }
    }
}
