//! Coordinate-descent attention: a soft top-k of the scores in place of the softmax, so that a query spreads a weight of
//! about k over its keys, at most 1 on each (lucidrains, `coordinate-descent-attention`; the descent as in CoLT5, Ainslie et
//! al. 2023, arXiv 2303.09752).
//!
//! ```
//! use wgrad::ops::attention::descent::DescentAttention;
//! use wgrad::ops::route::soft_top_k::SoftTopK;
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let q = graph.full([1, 1, 1, 1], 1.0);
//! let k = graph.constant(Tensor::f32([1, 1, 3, 1], vec![8.0, 8.0, -8.0])?);
//! let v = graph.constant(Tensor::f32([1, 1, 3, 1], vec![1.0, 2.0, 100.0])?);
//! // Two keys a query, each with a weight of about 1.
//! let options = DescentAttention { k: 2.0.into(), how: SoftTopK::exact(0.1), ..DescentAttention::default() };
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", q.descent_attention(k, v, &options))])?;
//! plan.run(&Feed::new())?;
//! assert!((plan.read_blocking("y")?.floats()[0] - 3.0).abs() < 1e-3);
//! # Ok(())
//! # }
//! ```

use super::Attention;
use super::composed::{Pairs, hidden};
use crate::error::{Error, Where};
use crate::graph::Var;
use crate::ops::route::soft_top_k::{SoftCount, SoftTopK};

/// Options of [`Var::descent_attention`].
#[derive(Clone)]
pub struct DescentAttention<'g> {
    /// Which keys a query sees, and the scale of the scores.
    pub attention: Attention<'g>,
    /// Keys that a query attends to: their weights sum to about k. One for all, or f32 `[b, h, i]`.
    pub k: SoftCount<'g>,
    /// The soft top-k.
    pub how: SoftTopK,
    /// Divides the weights of a query by their sum, so that values are averaged rather than added up.
    pub normalize: bool,
    /// Queries that are worked on together; `None`: as many as have at most 2^24 scores (64 MiB).
    pub rows: Option<usize>,
}

impl Default for DescentAttention<'_> {
    /// One key for every query, by 20 iterations with epsilon 0.1: the defaults of the reference.
    fn default() -> Self {
        DescentAttention {
            attention: Attention::default(),
            k: SoftCount::Fixed(1.0),
            how: SoftTopK::iterations(20, 0.1),
            normalize: false,
            rows: None,
        }
    }
}

/// Scores that stand in memory at a time, by default.
const SCORES: usize = 1 << 24;

impl<'g> Var<'g> {
    /// Attention of the queries `self` `[b, h, i, d]` to `keys` `[b, hk, j, d]` and `values` `[b, hk, j, dv]` with
    /// [`soft_top_k`](Self::soft_top_k) of the scores as weights; hk divides h. Returns `[b, h, i, dv]`.
    ///
    /// A query that sees no more than k keys weighs each of them 1 (with [`SoftTopK::Exact`]; the iteration tends to it), so
    /// the first rows of causal attention are plain sums of values, unless `normalize` is set. A query that sees no key gets
    /// zeros.
    ///
    /// Memory: the scores of `rows` queries of all heads, a few times over. Where there are more queries, each part is
    /// computed again in the backward pass, so that the whole matrix never stands in memory; causal parts leave out the keys
    /// after their last query.
    #[track_caller]
    pub fn descent_attention(self, keys: Var<'g>, values: Var<'g>, options: &DescentAttention<'g>) -> Var<'g> {
        let _at = self.graph().at(Where::caller());
        let (q, k) = (self.shape(), keys.shape());
        let known = q.len() == 4 && k.len() == 4 && values.rank() == 4;
        if !known || k[1] == 0 || q[1] % k[1] != 0 || q[0] != k[0] || k[..3] != values.shape()[..3] {
            // Attention says what is wrong.
            return self.attention(keys, values, &options.attention).out;
        }
        let (per_query, n) = (q[0] * q[1] * k[2], q[2]);
        let rows = options.rows.unwrap_or(SCORES / per_query.max(1)).clamp(1, n.max(1));
        if let SoftCount::PerRow(count) = options.k
            && count.shape()[..] != q[..3]
        {
            let message = format!("k has shape {}; expected {:?}, one for every query", count.shape(), &q[..3]);
            self.graph().fail(Error::argument("descent_attention", message));
            return self;
        }
        if rows >= n {
            return part(self, keys, values, options, 0, n);
        }
        let starts = (0..n).step_by(rows);
        let one =
            |start: usize| self.graph().recompute(|| part(self, keys, values, options, start, rows.min(n - start)));
        let parts: Vec<Var<'g>> = starts.map(one).collect();
        parts.split_first().map_or(self, |(first, rest)| first.concat(rest, 2))
    }
}

/// Queries `start..start + n`.
fn part<'g>(
    q: Var<'g>,
    keys: Var<'g>,
    values: Var<'g>,
    options: &DescentAttention<'g>,
    start: usize,
    n: usize,
) -> Var<'g> {
    let (b, h, hk, d) = (q.dim(0), q.dim(1), keys.dim(1), q.dim(3));
    let whole = [q.dim(2), keys.dim(2)];
    let attention = &options.attention;
    // The last query of the part sees no later key.
    let seen = match attention.valid {
        None if attention.causal => (start + n + whole[1]).saturating_sub(whole[0]).min(whole[1]),
        _ => whole[1],
    };
    let (keys, values) = (keys.slice(2, 0, seen), values.slice(2, 0, seen));
    let scale = attention.scale.unwrap_or(1.0 / (d.max(1) as f64).sqrt());
    let queries = q.slice(2, start, n).reshape([b, hk, h / hk, n, d]);
    let scores = (queries.matmul(keys.unsqueeze(2).transpose(-1, -2)) * scale).reshape([b, h, n, seen]);
    let hidden = hidden(q.graph(), attention, &Pairs { whole, queries: start..start + n, keys: seen });
    let mask = hidden.map(|hidden| hidden.eq(0));
    let k = match options.k {
        SoftCount::PerRow(k) => SoftCount::PerRow(k.slice(2, start, n)),
        fixed => fixed,
    };
    let mut weights = scores.soft_top_k(k, &options.how, mask);
    if options.normalize {
        weights = weights / weights.sum(3).maximum(1e-20);
    }
    let out = weights.reshape([b, hk, h / hk, n, seen]).matmul(values.unsqueeze(2));
    out.reshape([b, h, n, values.dim(3)])
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let descent = || SoftTopK::iterations(6, 0.4);
    let exact = || SoftTopK::exact(0.3);
    let cases = [
        ("plain", [2, 3, 5, 4], [2, 3, 8, 4], false, None, descent(), false),
        ("causal", [1, 2, 13, 4], [1, 2, 13, 4], true, None, exact(), false),
        ("causal, normalized", [1, 2, 13, 4], [1, 2, 13, 4], true, None, exact(), true),
        ("causal descent", [1, 2, 9, 4], [1, 2, 11, 4], true, None, descent(), true),
        ("shared heads, window", [2, 4, 9, 3], [2, 2, 9, 3], true, Some(4), exact(), false),
        ("more queries than keys", [1, 1, 9, 3], [1, 1, 4, 3], true, None, exact(), false),
        ("one of everything", [1, 1, 1, 1], [1, 1, 1, 1], true, None, exact(), true),
        ("no queries", [1, 2, 0, 3], [1, 2, 4, 3], true, None, exact(), false),
    ];
    let mut all = Vec::new();
    for (name, q, k, causal, window, how, normalize) in cases {
        for rows in [None, Some(4)] {
            let how = how.clone();
            let name = format!("descent attention {name}{}", if rows.is_some() { " in parts" } else { "" });
            all.push(Sample::new(name, [&q, &k, &k], move |_, x| {
                let attention = Attention { causal, window, ..Attention::default() };
                let options = DescentAttention { attention, k: 2.5.into(), how: how.clone(), normalize, rows };
                vec![x[0].descent_attention(x[1], x[2], &options)]
            }));
        }
    }
    for rows in [None, Some(3)] {
        let name = format!("descent attention, mask and k of its own, {rows:?}");
        let own = Sample::new(name, [&[3, 2, 7, 4], &[3, 2, 9, 4], &[3, 2, 9, 5], &[3, 2, 7]], move |_, x| {
            let attention = Attention { mask: Some(x[4]), ..Attention::default() };
            let how = SoftTopK::exact(0.5);
            let options = DescentAttention { attention, k: x[3].into(), how, rows, normalize: false };
            vec![x[0].descent_attention(x[1], x[2], &options)]
        });
        all.push(own.positive(3).below(&[3, 9], 2));
    }
    let same = Sample::new("descent attention in parts equals the whole", [&[2, 2, 11, 4]; 3], |_, x| {
        let attention = Attention { causal: true, ..Attention::default() };
        let whole = DescentAttention { attention, k: 2.0.into(), ..DescentAttention::default() };
        let parts = DescentAttention { rows: Some(3), ..whole.clone() };
        vec![x[0].descent_attention(x[1], x[2], &whole) - x[0].descent_attention(x[1], x[2], &parts)]
    });
    all.push(same.vanishing());
    all
}
