//! Norms of the package: a gain, and an offset that is not trained.

use crate::graph::Var;
use crate::models::parts::below;
use crate::nn::{Init, ParamVars, Params};

const EPS: f64 = 1e-5;

/// Layer norm with the parameter `gamma` and the buffer `beta`, both `[dim]`.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    gamma: String,
    beta: String,
}

impl Norm {
    pub fn new(params: &mut Params, name: &str, dim: usize) -> Self {
        let (gamma, beta) = (below(name, "gamma"), below(name, "beta"));
        params.add(&gamma, [dim], Init::Ones);
        params.add(&beta, [dim], Init::Zeros).buffer();
        Norm { gamma, beta }
    }

    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        x.layer_norm(p.get(&self.gamma), p.get(&self.beta), EPS)
    }
}
