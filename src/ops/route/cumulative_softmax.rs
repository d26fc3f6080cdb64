//! Selection by a softmax that runs from the lowest score up: a router of CoLT5-attention 0.2.x.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let scores = graph.constant(Tensor::f32([1, 3], vec![2.0, 0.0, 2.0])?);
//! let chosen = scores.cumulative_softmax(2, 1.0, None);
//! let plan = Device::cpu().compile_blocking(&graph, &[("scores", chosen.scores), ("indices", chosen.indices)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("indices")?.ints(), [2, 0]); // ascending; the last has its softmax
//! let (y, e) = (plan.read_blocking("scores")?, (-2f32).exp());
//! assert!((y.floats()[0] - 1.0 / (1.0 + e)).abs() < 1e-6 && (y.floats()[1] - 1.0 / (2.0 + e)).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```

use crate::error::{Error, Where};
use crate::graph::Var;

/// Result of [`Var::cumulative_softmax`], in ascending order of the scores as in the reference.
#[derive(Clone, Copy, Debug)]
pub struct CumulativeSoftmax<'g> {
    /// f32 `[.., k]` in `[0, 1]`: 0 for entries that the mask leaves out.
    pub scores: Var<'g>,
    /// u32 `[.., k]`.
    pub indices: Var<'g>,
}

impl<'g> Var<'g> {
    /// The `k` highest of the scores `[.., n]`, each with its share among itself and all lower ones: with
    /// `E_i = exp((s_i - max s) / temperature)` in ascending order, `E_i / max(sum_{j <= i} E_j, 1e-6)`. The highest entry
    /// has its softmax probability, the lower ones more than theirs. `mask` u32 0/1 of the same shape leaves entries out:
    /// they are chosen only where there are too few others, with score 0 and no gradient. No gradient flows through the
    /// maximum, as in the reference (CoLT5-attention 0.2.x); it only keeps the exponentials in range.
    ///
    /// Equal scores: the higher index first. NaN counts as left out. Costs a top-k and a pass over the rest, not a sort.
    ///
    /// An error unless 1 <= `k` <= n and the temperature is above 0.
    #[track_caller]
    pub fn cumulative_softmax(self, k: usize, temperature: f64, mask: Option<Var<'g>>) -> CumulativeSoftmax<'g> {
        let _at = self.graph().at(Where::caller());
        let (graph, axis) = (self.graph(), self.rank().saturating_sub(1));
        let scale = 1.0 / temperature;
        if !(temperature > 0.0 && (scale as f32).is_finite() && scale > 0.0) {
            let message = format!("expected a temperature above 0 with a finite inverse, got {temperature}");
            graph.fail(Error::argument("cumulative_softmax", message));
        }
        let top = match mask {
            Some(mask) => self.top_k_masked(k, mask),
            None => self.top_k(k),
        };
        if graph.error().is_some() {
            return CumulativeSoftmax { scores: self, indices: self };
        }
        // Entries that are numbers.
        let lowest = f64::from(f32::MIN);
        let valid = |x: Var<'g>, mask: Option<Var<'g>>| mask.map_or(x.ge(lowest), |mask| mask.and(x.ge(lowest)));
        let highest = top.values.slice(axis, 0, 1).stop_gradient();
        let exponential = |x: Var<'g>, valid: Var<'g>| {
            // Within the exponential too: infinite there, it would be NaN in the gradient.
            valid.select(valid.select((x - highest) * scale, 0.0).exp(), 0.0)
        };
        // All that is lower than the chosen ones, then those from the lowest up.
        let chosen = graph.full(top.indices.shape(), 1.0).scatter_along_unique(top.indices, -1, self.dim(-1));
        let rest = chosen.gt(0.0).select(0.0, exponential(self, valid(self, mask))).sum(axis);
        let own = exponential(top.values, valid(top.values, mask.map(|m| m.take_along(top.indices, -1))));
        let scores = own / (rest + own.cumsum_reverse(axis, false)).maximum(1e-6);
        // From descending to ascending.
        let shape = scores.shape();
        let order = graph.full_u32([], k as u32 - 1) - graph.iota(shape, axis);
        CumulativeSoftmax { scores: scores.take_along(order, -1), indices: top.indices.take_along(order, -1) }
    }
}

/// Word by word: sort, exponential, running sum. Without a mask, for the samples.
fn literal<'g>(x: Var<'g>, k: usize, temperature: f64) -> Var<'g> {
    let (n, axis) = (x.dim(-1), x.rank() - 1);
    let sorted = (x * (1.0 / temperature)).top_k(n).values;
    let order = x.graph().full_u32([], n as u32 - 1) - x.graph().iota(x.shape(), axis);
    let sorted = sorted.take_along(order, -1);
    let e = (sorted - sorted.max(axis).stop_gradient()).exp();
    (e / e.cumsum(axis).maximum(1e-6)).slice(axis, n - k, k)
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    let shapes: [(&[usize], usize); 6] =
        [(&[7], 3), (&[3, 5], 5), (&[2, 3, 40], 1), (&[2, 301], 33), (&[1], 1), (&[0, 4], 2)];
    for (shape, k) in shapes {
        all.push(Sample::new(format!("cumulative_softmax {k} of {shape:?}"), [shape], move |_, x| {
            let c = x[0].cumulative_softmax(k, 0.7, None);
            vec![c.scores, c.indices]
        }));
        // 1 leaves all entries out, 2 half of them.
        for bound in [1, 2] {
            let masked =
                Sample::new(format!("cumulative_softmax mask {bound} {k} of {shape:?}"), [shape], move |_, x| {
                    let c = x[0].cumulative_softmax(k, 1.0, Some(x[1]));
                    vec![c.scores, c.indices]
                });
            all.push(masked.below(shape, bound));
        }
        let same = Sample::new(format!("literal cumulative_softmax {k} of {shape:?}"), [shape], move |_, x| {
            vec![x[0].cumulative_softmax(k, 0.7, None).scores - literal(x[0], k, 0.7)]
        });
        all.push(same.vanishing());
    }
    let hard = Sample::new("cumulative_softmax of extreme scores", [&[4, 9]], |g, x| {
        let top = f64::from(f32::MAX);
        let both = x[0].gt(1.0).select(g.full([4, 9], top), x[0].lt(-1.0).select(g.full([4, 9], -top), x[0]));
        vec![both.cumulative_softmax(4, 1.0, None).scores, (x[0] * 0.0).cumulative_softmax(4, 1.0, None).scores]
    });
    all.push(hard.no_gradient());
    all
}
