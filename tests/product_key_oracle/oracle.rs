//! The layer in plain code and double precision, slot by slot: all pairs of sub-keys are scored.

use crate::plain::{Rows, dot, layer_norm, linear, soft_top_k, softmax};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use wgrad::models::product_key::{KeyScore, ProductKeyConfig};

/// How batch norm gets its statistics.
#[derive(Clone, Copy, Debug)]
pub enum Statistics<'a> {
    /// Of the tokens that a mask leaves.
    Batch(&'a [u32]),
    Running,
}

/// A layer and what a call says of it.
pub struct Oracle<'a> {
    pub config: &'a ProductKeyConfig,
    pub values: BTreeMap<String, Vec<f64>>,
    pub statistics: Statistics<'a>,
    /// `[tokens, heads, 2, num_keys]`.
    pub noise: Option<Vec<f64>>,
    /// Soft scores of the first evaluation: a straight-through score is `1 + soft - first soft`, 1 at first with the soft
    /// score's derivative.
    first: RefCell<Vec<f64>>,
    next: Cell<usize>,
    /// Least distance of a score that was selected from one that was not.
    pub margin: Cell<f64>,
}

/// A slot and its score.
type Scored = (usize, f64);

impl<'a> Oracle<'a> {
    pub fn new(
        config: &'a ProductKeyConfig,
        values: BTreeMap<String, Vec<f64>>,
        statistics: Statistics<'a>,
        noise: Option<Vec<f64>>,
    ) -> Self {
        let margin = Cell::new(f64::INFINITY);
        Oracle { config, values, statistics, noise, first: RefCell::default(), next: Cell::new(0), margin }
    }

    /// The `k` largest, those that come first before their equals.
    fn largest(&self, mut scored: Vec<Scored>, k: usize) -> Vec<Scored> {
        scored.sort_by(|a, b| b.1.total_cmp(&a.1));
        if let [.., last, next] = scored[..scored.len().min(k + 1)]
            && scored.len() > k
        {
            self.margin.set(self.margin.get().min(last.1 - next.1));
        }
        scored.truncate(k);
        scored
    }

    fn value(&self, name: &str) -> &[f64] {
        self.values.get(name).unwrap_or_else(|| panic!("no parameter {name}"))
    }

    fn straight_through(&self, soft: f64) -> f64 {
        let (mut first, i) = (self.first.borrow_mut(), self.next.get());
        if i == first.len() {
            first.push(soft);
        }
        self.next.set(i + 1);
        1.0 + soft - first[i]
    }

    fn norm(&self, name: &str, x: &Rows) -> Rows {
        layer_norm(x, self.value(&format!("{name}.weight")), self.value(&format!("{name}.bias")))
    }

    /// Half queries of all tokens, `[tokens * 2 * heads]` rows, normalised over the batch.
    fn batch_norm(&self, q: &Rows) -> Rows {
        let per = 2 * self.config.heads;
        let part = |name: &str| self.value(&format!("norm.fn.{name}"));
        let normalised = |j: usize, v: f64| {
            let (mean, var) = match self.statistics {
                Statistics::Running => (part("running_mean")[j], part("running_var")[j]),
                Statistics::Batch(mask) => {
                    let seen: Vec<f64> =
                        q.iter().enumerate().filter(|(i, _)| mask[i / per] == 1).map(|(_, q)| q[j]).collect();
                    let n = seen.len().max(1) as f64;
                    let mean = seen.iter().sum::<f64>() / n;
                    (mean, seen.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n)
                }
            };
            (v - mean) / (var + 1e-5).sqrt() * part("weight")[j] + part("bias")[j]
        };
        q.iter().map(|q| q.iter().enumerate().map(|(j, v)| normalised(j, *v)).collect()).collect()
    }

    /// Sub-keys of a half that may be selected, and their scores.
    fn half(&self, dots: &[f64]) -> Vec<Scored> {
        let c = self.config;
        let all = vec![true; dots.len()];
        let numbered = |scores: &[f64]| self.largest(scores.iter().copied().enumerate().collect(), c.topk);
        match (&c.score, &c.differentiable_topk) {
            (KeyScore::Product(how), _) => {
                let marginals = soft_top_k(dots, (c.topk as f64).sqrt(), how, &all);
                let score = |(i, _): Scored| (i, marginals[i].max(1e-20).ln());
                numbered(dots).into_iter().map(score).collect()
            }
            (KeyScore::Sum, Some(options)) => {
                let k = (c.topk as f64 * options.ratio).min(dots.len() as f64);
                let soft = soft_top_k(dots, k, &options.how, &all);
                let gated: Vec<f64> = dots.iter().zip(soft).map(|(d, s)| d * self.straight_through(s)).collect();
                numbered(&gated)
            }
            (KeyScore::Sum, None) => numbered(dots),
        }
    }

    /// What one token reads with queries `q` `[2 * heads]`: slots and gates of each head.
    fn read(&self, token: usize, q: &[Vec<f64>]) -> Vec<Vec<Scored>> {
        let ProductKeyConfig { heads, num_keys: n, dim_head: d, topk, .. } = *self.config;
        let head = |h: usize| {
            let [x, y] = [0, 1].map(|p| {
                let key = |i: usize| &self.value("keys")[((h * n + i) * 2 + p) * d..][..d];
                let noise = |i: usize| self.noise.as_ref().map_or(0.0, |v| v[((token * heads + h) * 2 + p) * n + i]);
                let dots: Vec<f64> = (0..n).map(|i| dot(&q[p * heads + h], key(i)) + noise(i)).collect();
                self.half(&dots)
            });
            let pairs = x.iter().flat_map(|(i, a)| y.iter().map(move |(j, b)| (i * n + j, a + b)));
            let best = self.largest(pairs.collect(), topk);
            let scores: Vec<f64> = best.iter().map(|s| s.1).collect();
            let gates = match (&self.config.score, self.config.non_competitive_gates) {
                (_, false) => softmax(&scores),
                (KeyScore::Sum, true) => scores.iter().map(|s| s.max(0.0)).collect(),
                (KeyScore::Product(_), true) => scores.iter().map(|s| s.exp()).collect(),
            };
            best.iter().zip(gates).map(|(s, gate)| (s.0, gate)).collect()
        };
        (0..heads).map(head).collect()
    }

    /// Output of all tokens.
    pub fn forward(&self, x: &Rows) -> Rows {
        self.next.set(0);
        let c = self.config;
        let x = if c.pre_layernorm { self.norm("pre_layernorm", x) } else { x.clone() };
        let u = linear(&x, self.value("to_queries.weight"), c.dim);
        let halves: Rows = u.iter().flat_map(|u| u.chunks(c.dim_head).map(<[f64]>::to_vec)).collect();
        let q = if c.use_layernorm { self.norm("norm", &halves) } else { self.batch_norm(&halves) };
        let out: Rows = q.chunks(2 * c.heads).enumerate().map(|(t, q)| self.sum(&self.read(t, q))).collect();
        if c.norm_output { self.norm("output_norm", &out) } else { out }
    }

    /// Values of what was read.
    fn sum(&self, read: &[Vec<Scored>]) -> Vec<f64> {
        let width = self.config.width();
        let mut heads = vec![vec![0.0; width]; read.len()];
        for (head, slots) in heads.iter_mut().zip(read) {
            for (slot, gate) in slots {
                let gate = if self.config.drop_gates { 1.0 } else { *gate };
                let row = &self.value("values.weight")[slot * width..][..width];
                head.iter_mut().zip(row).for_each(|(o, v)| *o += gate * v);
            }
        }
        if self.config.concat_values_and_combine {
            let side_by_side = vec![heads.concat()];
            return linear(&side_by_side, self.value("maybe_concat_combine.2.weight"), width * read.len()).concat();
        }
        (0..width).map(|i| heads.iter().map(|h| h[i]).sum()).collect()
    }
}
