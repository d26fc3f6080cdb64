//! Feed-forward with a gated activation.

use super::norm::Norm;
use crate::graph::Var;
use crate::models::parts::below;
use crate::nn::{Linear, ParamVars, Params};

/// `W2 (a gelu(g))` with `[a | g] = W1 norm(x)` (GEGLU, Shazeer 2020, arXiv 2002.05202). Parameters `0.gamma`, `0.beta`,
/// `1.weight` `[2 inner, D]`, `3.weight` `[D, inner]` below its name.
#[derive(Clone, Debug)]
pub struct FeedForward {
    norm: Norm,
    proj_in: Linear,
    proj_out: Linear,
    inner: usize,
}

impl FeedForward {
    /// Adds the parameters below `name`.
    pub fn new(params: &mut Params, name: &str, dim: usize, inner: usize) -> Self {
        FeedForward {
            norm: Norm::new(params, &below(name, "0"), dim),
            proj_in: Linear::new(params, &below(name, "1"), dim, inner.saturating_mul(2), false),
            proj_out: Linear::new(params, &below(name, "3"), inner, dim, false),
            inner,
        }
    }

    /// `x` `[.., D]` to `[.., D]`.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        let hidden = self.proj_in.forward(p, self.norm.forward(p, x));
        let axis = hidden.rank().saturating_sub(1);
        let gated = hidden.slice(axis, 0, self.inner) * hidden.slice(axis, self.inner, self.inner).gelu();
        self.proj_out.forward(p, gated)
    }
}
