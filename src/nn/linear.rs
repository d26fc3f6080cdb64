//! Affine map.

use super::{Init, ParamVars, Params};
use crate::graph::Var;

/// `y = x Wᵀ + b` with `W [outputs, inputs]` and `b [outputs]`, stored as `<name>.weight` and `<name>.bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: String,
    bias: Option<String>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// Adds weight and, if asked for, bias, both uniform in ±1/√inputs as in PyTorch.
    pub fn new(params: &mut Params, name: &str, inputs: usize, outputs: usize, bias: bool) -> Self {
        let bound = 1.0 / (inputs.max(1) as f32).sqrt();
        let weight = format!("{name}.weight");
        params.add(&weight, [outputs, inputs], Init::Uniform { bound });
        let bias = bias.then(|| format!("{name}.bias"));
        if let Some(bias) = &bias {
            params.add(bias, [outputs], Init::Uniform { bound });
        }
        Linear { weight, bias, inputs, outputs }
    }

    /// Extent of the last dimension it takes.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Extent of the last dimension it gives.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `x [.., inputs]` to `[.., outputs]`.
    #[track_caller]
    pub fn forward<'g>(&self, params: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        let y = linear(x, params.get(&self.weight));
        match &self.bias {
            Some(bias) => y + params.get(bias),
            None => y,
        }
    }
}

/// `x [.., inputs]` times the transpose of `weight [outputs, inputs]`: one product over all rows.
#[track_caller]
pub(crate) fn linear<'g>(x: Var<'g>, weight: Var<'g>) -> Var<'g> {
    let (rows, n) = x.shape().rows();
    let mut shape = x.shape();
    if let Some(last) = shape.0.last_mut() {
        *last = weight.dim(0);
    }
    x.reshape([rows, n]).matmul(weight.transpose(0, 1)).reshape(shape)
}
