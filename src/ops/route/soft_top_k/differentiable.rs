//! A top-k whose choice passes gradient: hard selection, soft scores behind it.

use super::SoftTopK;
use crate::error::{Error, Where};
use crate::graph::Var;

/// How a differentiable top-k chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct DifferentiableTopK {
    /// The soft scores of a row add up to `min(k ratio, n)`: room for entries beside the selected ones; at least 1.
    pub ratio: f64,
    /// Where the soft scores come from.
    pub how: SoftTopK,
}

impl Default for DifferentiableTopK {
    /// The defaults of the reference's `topk`: ratio 9/8, 20 iterations at epsilon 0.1.
    fn default() -> Self {
        DifferentiableTopK { ratio: 9.0 / 8.0, how: SoftTopK::iterations(20, 0.1) }
    }
}

impl DifferentiableTopK {
    /// For choices that are to be learned: [`SoftTopK::learnable`] at ratio 1.
    pub fn learnable() -> Self {
        DifferentiableTopK { ratio: 1.0, how: SoftTopK::learnable() }
    }
}

/// The largest entries of each row with their soft scores, all `[.., k]`, by descending value.
#[derive(Clone, Copy, Debug)]
pub struct SoftSelection<'g> {
    /// f32 `[.., k]`: the entries times their gates, which are 1.
    pub values: Var<'g>,
    /// u32 `[.., k]`: where along the last axis each was.
    pub indices: Var<'g>,
    /// f32 `[.., k]`: their soft scores.
    pub soft: Var<'g>,
    /// f32 `[.., k]`: 1 in value, with the gradient of the soft scores.
    pub gates: Var<'g>,
}

impl<'g> Var<'g> {
    /// The `k` largest entries along the last axis, f32 `[.., n]`, whose selection is differentiable: values are multiplied
    /// by straight-through gates (Bengio et al. 2013, arXiv 1308.3432) made of [`soft_top_k`](Self::soft_top_k), after
    /// `topk` of CoLT5-attention. Plain [`top_k`](Self::top_k) is the non-differentiable one.
    ///
    /// As there, `mask` (u32 0/1) only enters the soft scores: masked entries can be selected, with soft score 0 and gate
    /// 1. Use [`top_k_masked`](Self::top_k_masked) where they must not.
    ///
    /// # Errors
    /// `Argument` for a ratio below 1, and the errors of `soft_top_k` and `top_k`.
    #[track_caller]
    pub fn differentiable_top_k(
        self,
        k: usize,
        options: &DifferentiableTopK,
        mask: Option<Var<'g>>,
    ) -> SoftSelection<'g> {
        let _at = self.graph().at(Where::caller());
        if !(options.ratio >= 1.0 && options.ratio.is_finite()) {
            let message = format!("the ratio is {}; it must be at least 1 and finite", options.ratio);
            self.graph.fail(Error::argument("differentiable_top_k", message));
        }
        let count = (k as f64 * options.ratio).min(self.dim(-1) as f64);
        let soft = self.soft_top_k(count, &options.how, mask);
        let gates = self.graph.full(self.shape(), 1.0).straight_through(soft);
        let top = (self * gates).top_k(k);
        SoftSelection {
            values: top.values,
            indices: top.indices,
            soft: soft.take_along(top.indices, -1),
            gates: gates.take_along(top.indices, -1),
        }
    }
}
