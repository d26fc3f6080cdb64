//! The routed memory in plain loops, in double precision: keeps every input there ever was and looks at the last N.

use std::collections::HashMap;
use wgrad::models::long_memory::RoutedMemoryConfig;
use wgrad::nn::{Params, Storage};
use wgrad::ops::bank::half;

type Rows = Vec<Vec<f64>>;

pub struct Oracle {
    config: RoutedMemoryConfig,
    weights: HashMap<String, Vec<f64>>,
    /// Normed inputs of each sample, oldest first.
    history: Vec<Rows>,
    /// Keys and values of inputs as they are stored: which routing sees other numbers than attention.
    storage: Storage,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn normed(x: &[f64], gamma: Option<&[f64]>) -> Vec<f64> {
    let scale = (x.len() as f64).sqrt() / dot(x, x).sqrt().max(1e-12);
    x.iter().enumerate().map(|(i, v)| v * scale * gamma.map_or(1.0, |g| g[i])).collect()
}

/// Rotary embedding in halves.
fn turned(x: &[f64], position: f64) -> Vec<f64> {
    let half = x.len() / 2;
    let mut out = x.to_vec();
    for m in 0..half {
        let angle = position * 10_000f64.powf(-2.0 * m as f64 / x.len() as f64);
        out[m] = x[m] * angle.cos() - x[m + half] * angle.sin();
        out[m + half] = x[m + half] * angle.cos() + x[m] * angle.sin();
    }
    out
}

/// The soft top-k at epsilon 1, by bisection.
fn soft_top_k(s: &[f64], k: f64) -> Vec<f64> {
    if k >= s.len() as f64 {
        return vec![1.0; s.len()];
    }
    let top = s.iter().copied().fold(f64::MIN, f64::max);
    let sum = |a: f64| s.iter().map(|s| (s + a).min(0.0).exp()).sum::<f64>();
    let (mut low, mut high) = (-top - 60.0, -top + 60.0 + 2.0 * top.abs() + 100.0);
    for _ in 0..300 {
        let middle = 0.5 * (low + high);
        if sum(middle) < k { low = middle } else { high = middle }
    }
    s.iter().map(|s| (s + low).min(0.0).exp()).collect()
}

/// What a query attends to: rows of a context with their gates and positions.
struct Seen {
    row: Vec<f64>,
    gate: f64,
    position: f64,
}

impl Oracle {
    pub fn new(config: &RoutedMemoryConfig, params: &Params, batch: usize) -> Self {
        let values =
            |(name, t): (&str, wgrad::Tensor)| (name.to_owned(), t.floats().iter().map(|x| f64::from(*x)).collect());
        let weights = params.values().map(values).collect();
        let storage = config.storage;
        Oracle { config: config.clone(), weights, history: vec![Vec::new(); batch], storage }
    }

    /// Attention below `name` of a query; `seen(head)` is what a head sees.
    fn attention(
        &self,
        name: &str,
        (heads, d): (usize, usize),
        x: &[f64],
        position: Option<f64>,
        seen: impl Fn(usize) -> Vec<Seen>,
    ) -> Vec<f64> {
        let dim = x.len();
        let weight = |part: &str| &self.weights[&format!("{name}.{part}")];
        let (gamma, null) = (weight("norm.gamma"), weight("null_kv"));
        let project = |part: &str, from: usize, x: &[f64]| -> Vec<f64> {
            (0..d).map(|i| dot(&weight(part)[(from + i) * dim..][..dim], x)).collect()
        };
        let x = normed(x, Some(gamma));
        let mut out = vec![0.0; dim];
        for h in 0..heads {
            let mut q = project("to_q.weight", h * d, &x);
            if let Some(position) = position {
                q = turned(&q, position);
            }
            let mut keys = vec![(null[h * d..][..d].to_vec(), null[(heads + h) * d..][..d].to_vec())];
            for s in seen(h) {
                let row = normed(&s.row, Some(gamma));
                let mut k = project("to_kv.weight", 2 * h * d, &row);
                let v = project("to_kv.weight", (2 * h + 1) * d, &row);
                if self.config.multiply_keys_by_score && name == "attn" {
                    k.iter_mut().for_each(|k| *k *= s.gate);
                }
                if position.is_some() {
                    k = turned(&k, s.position);
                }
                keys.push((k, v.iter().map(|v| v * s.gate).collect()));
            }
            let logits: Vec<f64> = keys.iter().map(|(k, _)| dot(&q, k) / (d as f64).sqrt()).collect();
            let top = logits.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (w, (_, v)) in weights.iter().zip(&keys) {
                for (i, v) in v.iter().enumerate() {
                    for (o, out) in out.iter_mut().enumerate() {
                        *out += w / total * v * weight("to_out.weight")[o * heads * d + h * d + i];
                    }
                }
            }
        }
        out
    }

    /// What the tokens of a block of sample `b` read.
    pub fn read(&self, b: usize, x: &[Vec<f64>]) -> Rows {
        let c = &self.config;
        let history = &self.history[b];
        let memory = &history[history.len().saturating_sub(c.capacity)..];
        let token = |r: usize| {
            let own = &self.weights["routing_token"][r * c.dim..][..c.dim];
            let Some(back) = c.lookback else { return own.to_vec() };
            let latest = &memory[memory.len().saturating_sub(back.latest)..];
            let seen = |_| latest.iter().map(|row| Seen { row: row.clone(), gate: 1.0, position: 0.0 }).collect();
            let read = self.attention("routing_attn", (back.heads, back.dim_head), own, None, seen);
            own.iter().zip(read).map(|(a, b)| a + b).collect()
        };
        let picked: Vec<Vec<Seen>> = (0..c.routes)
            .map(|r| {
                let token = token(r);
                let length = dot(&token, &token).sqrt();
                let scores: Vec<f64> = memory.iter().map(|row| dot(row, &token) / length).collect();
                let soft = soft_top_k(&scores, c.selected as f64);
                let mut order: Vec<usize> = (0..memory.len()).collect();
                order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                let far = c.max_distance.unwrap_or(0) as f64;
                let one = |&i: &usize| Seen {
                    row: memory[i].clone(),
                    gate: if c.straight_through { 1.0 } else { soft[i] },
                    position: far - ((memory.len() - i) as f64).min(far),
                };
                order.iter().take(c.selected).map(one).collect()
            })
            .collect();
        let copy = |s: &Seen| Seen { row: s.row.clone(), ..*s };
        let read = |(i, x): (usize, &Vec<f64>)| {
            let position = c.max_distance.map(|far| (far + i) as f64);
            let seen = |h: usize| picked[h / (c.heads / c.routes)].iter().map(copy).collect();
            self.attention("attn", (c.heads, c.dim_head), x, position, seen)
        };
        x.iter().enumerate().map(read).collect()
    }

    /// Keeps inputs of sample `b`.
    pub fn push(&mut self, b: usize, x: &[Vec<f64>]) {
        let rounded = |v: f64| match self.storage {
            Storage::F32 => v,
            Storage::F16 => f64::from(half::from_bits(half::to_bits(v as f32))),
        };
        let rows: Rows = x.iter().map(|x| normed(x, None).into_iter().map(rounded).collect()).collect();
        self.history[b].extend(rows);
    }
}
