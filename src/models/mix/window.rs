//! Multi-head attention to the segment and to kept keys and values of tokens before it.

use super::attention::{Attention, Past};
use crate::graph::Var;
use crate::models::parts::below;
use crate::nn::{Init, Linear, ParamVars, Params};
use crate::ops::attention::Attention as Seen;
use crate::ops::rotary::{Pairs, Rotary};
use crate::types::TensorType;

/// Causal attention with rotary positions, which count from the first key, so that only distances matter. It carries `keys`
/// (not yet turned) and `values` `[b, h, m, d]` of the last m tokens, and nothing where m is 0. Parameters below its name:
/// `norm.gamma` `[D]`, `to_qkv.weight` `[3 h d, D]`, `to_out.weight` `[D, h d]`.
#[derive(Clone, Debug)]
pub(super) struct WindowAttention {
    gamma: String,
    to_qkv: Linear,
    to_out: Linear,
    heads: usize,
    dim_head: usize,
    /// Tokens before a segment whose keys are kept.
    context: usize,
    /// Tokens that a token sees, itself included; none: all there are.
    window: Option<usize>,
}

impl WindowAttention {
    /// Adds the parameters below `name`; `extents` are features of a token, heads, and features of a head.
    pub fn new(
        params: &mut Params,
        name: &str,
        extents: (usize, usize, usize),
        context: usize,
        window: Option<usize>,
    ) -> Self {
        let (dim, heads, dim_head) = extents;
        let gamma = below(name, "norm.gamma");
        params.add(&gamma, [dim], Init::Ones);
        let to_qkv = Linear::new(params, &below(name, "to_qkv"), dim, 3 * heads * dim_head, false);
        let to_out = Linear::new(params, &below(name, "to_out"), heads * dim_head, dim, false);
        WindowAttention { gamma, to_qkv, to_out, heads, dim_head, context, window }
    }
}

/// The last `n` rows of `x` `[b, h, m, d]`, or all.
fn last(x: Var<'_>, n: usize) -> Var<'_> {
    let n = n.min(x.dim(2));
    x.slice(2, x.dim(2) - n, n)
}

impl Attention for WindowAttention {
    fn carries(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let ty = TensorType::f32([batch, self.heads, self.context, self.dim_head]);
        if self.context == 0 { Vec::new() } else { vec![("keys", ty.clone()), ("values", ty)] }
    }

    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, past: Past<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let (g, b, n) = (x.graph(), x.dim(0), x.dim(1));
        let (h, d) = (self.heads, self.dim_head);
        let qkv = self.to_qkv.forward(p, x.rms_norm(p.get(&self.gamma))).reshape([b, n, 3, h, d]);
        let [q, mut k, mut v] = [0, 1, 2].map(|i| qkv.select_index(2, i).permute(&[0, 2, 1, 3]));
        let mut mask = None;
        if let [keys, values] = *past.values {
            let m = keys.dim(2);
            (k, v) = (keys.concat(&[k], 2), values.concat(&[v], 2));
            // Of what is kept the last rows are there.
            mask = past.seen.map(|seen| {
                let count = seen.minimum(g.full_u32([], m as u32)).reshape([b, 1]);
                (g.iota([b, m + n], 1) + count).ge(m as u32)
            });
        }
        let all = k.dim(2);
        let next = if self.context == 0 { Vec::new() } else { vec![last(k, self.context), last(v, self.context)] };
        let rotary = Rotary { pairs: Pairs::Half, ..Rotary::default() };
        let q = q.rotary(g.iota([n], 0) + (all - n) as u32, &rotary);
        let k = k.rotary(g.iota([all], 0), &rotary);
        let seen = Seen { causal: true, window: self.window, mask, ..Seen::default() };
        let out = q.attention(k, v, &seen).out.permute(&[0, 2, 1, 3]).reshape([b, n, h * d]);
        (self.to_out.forward(p, out), next)
    }
}
