//! Attention of many query heads to one head of keys and values (Shazeer 2019, arXiv 1911.02150), with normalised queries
//! and keys if asked for (Dehghani et al. 2023, arXiv 2302.05442).

use crate::graph::Var;
use crate::models::parts::below;
use crate::nn::{Init, ParamVars, Params};
use crate::ops::attention::Attention;

/// What [`Core`] is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct CoreConfig {
    pub heads: usize,
    pub dim_head: usize,
    pub qk_rmsnorm: bool,
    pub qk_rmsnorm_scale: Option<f64>,
}

/// Queries `[b, h, n, d]`, keys and values `[b, j, d]`. With norms: gains `q_scale` and `k_scale` `[d]` below its name.
#[derive(Clone, Debug)]
pub(super) struct Core {
    gains: Option<[String; 2]>,
    heads: usize,
    scale: f64,
}

/// Smallest norm that is divided by.
const EPS: f64 = 1e-12;

impl Core {
    pub fn new(params: &mut Params, name: &str, config: &CoreConfig) -> Self {
        let gains = config.qk_rmsnorm.then(|| {
            ["q_scale", "k_scale"].map(|gain| {
                let gain = below(name, gain);
                params.add(&gain, [config.dim_head], Init::Ones);
                gain
            })
        });
        let plain = 1.0 / (config.dim_head.max(1) as f64).sqrt();
        let scale = config.qk_rmsnorm_scale.filter(|_| config.qk_rmsnorm).unwrap_or(plain);
        Core { gains, heads: config.heads, scale }
    }

    /// `x` `[b, n, h d]` as heads `[b, h, n, d]`.
    #[track_caller]
    pub fn split<'g>(&self, x: Var<'g>) -> Var<'g> {
        let (b, n, d) = (x.dim(0), x.dim(1), x.dim(-1) / self.heads.max(1));
        x.reshape([b, n, self.heads, d]).permute(&[0, 2, 1, 3])
    }

    /// Queries as they are compared.
    #[track_caller]
    pub fn queries<'g>(&self, p: &ParamVars<'g>, q: Var<'g>) -> Var<'g> {
        match &self.gains {
            Some([gain, _]) => q.l2_normalize(EPS) * p.get(gain),
            None => q,
        }
    }

    /// Keys as they are compared.
    #[track_caller]
    pub fn keys<'g>(&self, p: &ParamVars<'g>, k: Var<'g>) -> Var<'g> {
        match &self.gains {
            Some([_, gain]) => k.l2_normalize(EPS) * p.get(gain),
            None => k,
        }
    }

    /// Attention of queries and keys that were made ready by the two methods above: `[b, h, n, d]`. Keys and values of one
    /// text serve all.
    #[track_caller]
    pub fn attend<'g>(&self, q: Var<'g>, k: Var<'g>, v: Var<'g>, options: &Attention<'g>) -> Var<'g> {
        let options = Attention { scale: Some(self.scale), ..*options };
        let shared = |x: Var<'g>| for_each(x, q.dim(0)).unsqueeze(1);
        q.attention(shared(k), shared(v), &options).out
    }
}

/// `[b, h, n, d]` as `[b, n, h d]`.
#[track_caller]
pub(super) fn merge(x: Var<'_>) -> Var<'_> {
    let (b, h, n, d) = (x.dim(0), x.dim(1), x.dim(2), x.dim(3));
    x.permute(&[0, 2, 1, 3]).reshape([b, n, h * d])
}

/// `x` `[1, ..]` for each of `b` texts, or `[b, ..]` as it is.
#[track_caller]
pub(super) fn for_each(x: Var<'_>, b: usize) -> Var<'_> {
    let mut shape = x.shape();
    match shape.0.first_mut() {
        Some(first) if *first == 1 => *first = b,
        _ => return x,
    }
    x.expand(shape)
}
