//! Multi-head attention to the neighbourhood.

use super::linear::linear;
use super::{Init, Linear, ParamVars, Params};
use crate::graph::Var;
use crate::ops::attention::local::{LocalAttention as Options, Tail};

/// Options of [`LocalAttention`].
#[derive(Clone, Debug)]
pub struct LocalAttentionConfig {
    /// Features of a token.
    pub dim: usize,
    /// Number of heads.
    pub heads: usize,
    /// Features of a head.
    pub dim_head: usize,
    /// Keys on either side of a query; causal: keys of a block, of which a query sees its own up to itself and the one
    /// before.
    pub window: usize,
    /// Queries see no later keys.
    pub causal: bool,
    /// LayerNorm before the projections.
    pub prenorm: bool,
    /// Zeros that fill up the last window.
    pub tail: Tail,
}

impl LocalAttentionConfig {
    /// Eight heads of 64 features, both ways, with prenorm, the tail as in the reference.
    pub fn new(dim: usize, window: usize) -> Self {
        LocalAttentionConfig { dim, heads: 8, dim_head: 64, window, causal: false, prenorm: true, tail: Tail::Visible }
    }
}

/// `LocalMHA` of the `local-attention` package without rotary embedding: the light attention of CoLT5 (Ainslie et al. 2023,
/// arXiv 2303.09752). Parameters `norm.weight`, `norm.bias` `[dim]`, `to_qkv.weight` `[3 heads dim_head, dim]` (rows q, k, v)
/// and `to_out.weight` `[dim, heads dim_head]` below its name.
#[derive(Clone, Debug)]
pub struct LocalAttention {
    config: LocalAttentionConfig,
    norm: Option<[String; 2]>,
    to_qkv: String,
    to_out: Linear,
}

impl LocalAttention {
    /// Adds the parameters below `name` (none: at the top).
    pub fn new(params: &mut Params, name: &str, config: LocalAttentionConfig) -> Self {
        let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
        let norm = config.prenorm.then(|| [below("norm.weight"), below("norm.bias")]);
        if let Some([weight, bias]) = &norm {
            params.add(weight, [config.dim], Init::Ones);
            params.add(bias, [config.dim], Init::Zeros);
        }
        let inner = config.heads.saturating_mul(config.dim_head);
        let to_qkv = below("to_qkv.weight");
        let bound = 1.0 / (config.dim.max(1) as f32).sqrt();
        params.add(&to_qkv, [inner.saturating_mul(3), config.dim], Init::Uniform { bound });
        let to_out = Linear::new(params, &below("to_out"), inner, config.dim, false);
        LocalAttention { config, norm, to_qkv, to_out }
    }

    /// Queries, keys and values of `x` `[b, n, dim]`, `[b, h, n, d]` each.
    #[track_caller]
    pub(crate) fn project<'g>(&self, params: &ParamVars<'g>, x: Var<'g>) -> [Var<'g>; 3] {
        let LocalAttentionConfig { heads, dim_head, .. } = self.config;
        let (b, n) = (x.dim(0), x.dim(1));
        let x = match &self.norm {
            Some([weight, bias]) => x.layer_norm(params.get(weight), params.get(bias), 1e-5),
            None => x,
        };
        let weight = params.get(&self.to_qkv);
        // One product each: of a long sequence, all three together would exceed a binding.
        let part = |i| linear(x, weight.slice(0, i * heads * dim_head, heads * dim_head));
        [0, 1, 2].map(|i| part(i).reshape([b, n, heads, dim_head]).permute(&[0, 2, 1, 3]))
    }

    /// The output `[b, n, dim]` of the heads `[b, h, n, d]`.
    #[track_caller]
    pub(crate) fn merge<'g>(&self, params: &ParamVars<'g>, heads: Var<'g>) -> Var<'g> {
        let (b, h, n, d) = (heads.dim(0), heads.dim(1), heads.dim(2), heads.dim(3));
        self.to_out.forward(params, heads.permute(&[0, 2, 1, 3]).reshape([b, n, h * d]))
    }

    /// `x` `[b, n, dim]` to `[b, n, dim]`; `mask` u32 0/1 `[b, n]` hides tokens as keys. A token whose whole neighbourhood
    /// is hidden gets zeros.
    #[track_caller]
    pub fn forward<'g>(&self, params: &ParamVars<'g>, x: Var<'g>, mask: Option<Var<'g>>) -> Var<'g> {
        let LocalAttentionConfig { window, causal, tail, .. } = self.config;
        let [q, k, v] = self.project(params, x);
        let options = Options { window, causal, tail, mask, scale: None };
        self.merge(params, q.local_attention(k, v, &options))
    }
}
