//! From queries to slots: products with sub-keys, selection, gates.

use super::config::{KeyScore, ProductKeyConfig};
use crate::graph::Var;
use crate::ops::select::TopK;

/// Marginals below count as this one, so that their logarithm stays finite.
const LEAST: f64 = 1e-20;

/// Slots for each query, and their scores.
pub(super) struct Selected<'g> {
    /// u32 `[.., K]`.
    pub slots: Var<'g>,
    /// f32 `[.., K]`, descending: sums, or logarithms of products.
    pub scores: Var<'g>,
}

/// The best pairs of sub-keys by the products of both halves of the queries with them, f32 `[.., N]` each.
pub(super) fn select<'g>(config: &ProductKeyConfig, x: Var<'g>, y: Var<'g>) -> Selected<'g> {
    let k = config.topk;
    let half = |dots: Var<'g>| match (&config.score, &config.differentiable_topk) {
        (KeyScore::Product(how), _) => {
            // Chosen by the products themselves: marginals rise with them, but may be equal where those are not.
            let indices = dots.top_k(k).indices;
            let marginals = dots.soft_top_k((k as f64).sqrt(), how, None);
            TopK { values: marginals.maximum(LEAST).ln().take_along(indices, -1), indices }
        }
        (KeyScore::Sum, Some(options)) => {
            let soft = dots.differentiable_top_k(k, options, None);
            TopK { values: soft.values, indices: soft.indices }
        }
        (KeyScore::Sum, None) => dots.top_k(k),
    };
    pairs(half(x), half(y), config.num_keys, k)
}

/// The `k` largest sums of an entry of each list, `[.., k]` and descending both; equal ones in the order of ranks.
fn pairs<'g>(x: TopK<'g>, y: TopK<'g>, num_keys: usize, k: usize) -> Selected<'g> {
    let mut shape = x.values.shape();
    shape.0.pop();
    let last = shape.len();
    shape.0.push(k * k);
    let sums = (x.values.unsqueeze(last + 1) + y.values.unsqueeze(last)).reshape(shape);
    let top = sums.top_k(k);
    let row = x.indices.take_along(top.indices / k as u32, -1);
    let column = y.indices.take_along(top.indices.rem(k as u32), -1);
    Selected { slots: row * num_keys as u32 + column, scores: top.values }
}

/// Weights of the selected slots `[.., K]`.
pub(super) fn gates<'g>(config: &ProductKeyConfig, scores: Var<'g>) -> Var<'g> {
    match (&config.score, config.non_competitive_gates) {
        // Of logarithms of products: each divided by their sum.
        (_, false) => scores.softmax(scores.rank().saturating_sub(1)),
        (KeyScore::Sum, true) => scores.relu(),
        (KeyScore::Product(_), true) => scores.exp(),
    }
}
