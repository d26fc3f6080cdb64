//! From queries to slots: products with sub-keys, selection, gates.

use super::config::{KeyScore, ProductKeyConfig};
use crate::graph::Var;
use crate::ops::select::TopK;

/// Marginals below count as this one, so that their logarithm stays finite.
const LEAST: f64 = 1e-20;

/// The best pairs of sub-keys by the products of both halves of the queries with them, f32 `[.., N]` each: slots u32 `[.., K]`
/// and their scores, descending, which are sums, or logarithms of products.
pub(super) fn select<'g>(config: &ProductKeyConfig, x: Var<'g>, y: Var<'g>) -> TopK<'g> {
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
    half(x).product(half(y), config.num_keys, k)
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
