//! Multi-head attention to the segment and to kept keys and values of tokens before it.

use super::attention::{Attention, Cached, Past};
use super::config::MemoryConfig;
use crate::graph::Var;
use crate::models::parts::{below, chosen};
use crate::nn::{Init, Linear, ParamVars, Params};
use crate::ops::attention::Attention as Seen;
use crate::ops::rotary::{Pairs, Rotary};
use crate::types::TensorType;

/// How far tokens see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Tokens before a segment whose keys are kept.
    pub context: usize,
    /// Tokens that a token sees, itself included; none: all there are.
    pub seen: Option<usize>,
}

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
    segment: usize,
    window: Window,
}

/// Keys and values of the context and of the segment, `[b, h, m + W, d]` each.
struct Rows<'g> {
    /// Not turned: what the next segments turn anew; absent where none are kept.
    keys: Option<Var<'g>>,
    turned: Var<'g>,
    values: Var<'g>,
}

impl<'g> Rows<'g> {
    fn new(values: &[Var<'g>]) -> Option<Self> {
        match *values {
            [turned, values] => Some(Rows { keys: None, turned, values }),
            [turned, values, keys] => Some(Rows { keys: Some(keys), turned, values }),
            _ => None,
        }
    }

    fn list(self) -> Vec<Var<'g>> {
        [self.turned, self.values].into_iter().chain(self.keys).collect()
    }
}

impl WindowAttention {
    /// Adds the parameters below `name`.
    pub fn new(params: &mut Params, name: &str, config: &MemoryConfig, window: Window) -> Self {
        let MemoryConfig { dim, heads, segment, .. } = *config;
        let dim_head = config.dim_head();
        let gamma = below(name, "norm.gamma");
        params.add(&gamma, [dim], Init::Ones);
        let to_qkv = Linear::new(params, &below(name, "to_qkv"), dim, 3 * heads * dim_head, false);
        let to_out = Linear::new(params, &below(name, "to_out"), heads * dim_head, dim, false);
        WindowAttention { gamma, to_qkv, to_out, heads, dim_head, segment, window }
    }

    /// How many parts its [cache](Attention::cache) has.
    pub fn parts(&self) -> usize {
        if self.window.context == 0 { 2 } else { 3 }
    }

    /// Queries, keys and values of `x` `[b, n, D]`: `[b, h, n, d]` each.
    #[track_caller]
    fn project<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> [Var<'g>; 3] {
        let qkv = self.to_qkv.forward(p, x.rms_norm(p.get(&self.gamma)));
        let qkv = qkv.reshape([x.dim(0), x.dim(1), 3, self.heads, self.dim_head]);
        [0, 1, 2].map(|i| qkv.select_index(2, i).permute(&[0, 2, 1, 3]))
    }

    /// What queries find, projected; `mask` and `valid` as in [`Seen`].
    #[track_caller]
    fn attend<'g>(
        &self,
        p: &ParamVars<'g>,
        [q, k, v]: [Var<'g>; 3],
        mask: Option<Var<'g>>,
        valid: Option<Var<'g>>,
    ) -> Var<'g> {
        let seen = Seen { causal: true, window: self.window.seen, mask, valid, ..Seen::default() };
        let out = q.attention(k, v, &seen).out.permute(&[0, 2, 1, 3]);
        self.to_out.forward(p, out.reshape([q.dim(0), q.dim(2), self.heads * self.dim_head]))
    }

    /// Which of `rows` rows there are if the first m are of the context, u32 `[b, rows]`: of those the last `seen` ones.
    fn there<'g>(&self, seen: Var<'g>, m: usize, rows: usize) -> Var<'g> {
        let (g, b) = (seen.graph(), seen.dim(0));
        let count = seen.minimum(g.full_u32([], m as u32)).reshape([b, 1]);
        (g.iota([b, rows], 1) + count).ge(m as u32)
    }
}

/// Queries or keys at their positions, u32 `[n]` or `[b, n]`.
#[track_caller]
fn turned<'g>(x: Var<'g>, positions: Var<'g>) -> Var<'g> {
    x.rotary(positions, &Rotary { pairs: Pairs::Half, ..Rotary::default() })
}

/// The last `n` rows of `x` `[b, h, m, d]`, or all.
fn last(x: Var<'_>, n: usize) -> Var<'_> {
    let n = n.min(x.dim(2));
    x.slice(2, x.dim(2) - n, n)
}

impl Attention for WindowAttention {
    fn carries(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let ty = TensorType::f32([batch, self.heads, self.window.context, self.dim_head]);
        if self.window.context == 0 { Vec::new() } else { vec![("keys", ty.clone()), ("values", ty)] }
    }

    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, past: Past<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let (g, n) = (x.graph(), x.dim(1));
        let [q, mut k, mut v] = self.project(p, x);
        let mut mask = None;
        if let [keys, values] = *past.values {
            let m = keys.dim(2);
            (k, v) = (keys.concat(&[k], 2), values.concat(&[v], 2));
            mask = past.seen.map(|seen| self.there(seen, m, m + n));
        }
        let (all, kept) = (k.dim(2), self.window.context);
        let next = if kept == 0 { Vec::new() } else { vec![last(k, kept), last(v, kept)] };
        let q = turned(q, g.iota([n], 0) + (all - n) as u32);
        let k = turned(k, g.iota([all], 0));
        (self.attend(p, [q, k, v], mask, None), next)
    }

    fn cache(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let rows = TensorType::f32([batch, self.heads, self.window.context + self.segment, self.dim_head]);
        ["turned", "values", "keys"].into_iter().take(self.parts()).map(|part| (part, rows.clone())).collect()
    }

    fn forward_cached<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, cached: &Cached<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let Some(rows) = Rows::new(cached.values) else { return (x, Vec::new()) };
        let (g, b, n, m) = (x.graph(), x.dim(0), x.dim(1), self.window.context);
        let [q, k, v] = self.project(p, x);
        // Where the new rows stand in the cache.
        let at = cached.length + m as u32;
        let positions = at.reshape([b, 1]) + g.iota([b, n], 1);
        let rows = Rows {
            keys: rows.keys.map(|keys| keys.write_rows(k, at)),
            turned: rows.turned.write_rows(turned(k, positions), at),
            values: rows.values.write_rows(v, at),
        };
        let mask = (m > 0).then(|| self.there(cached.seen, m, m + self.segment));
        let found = [turned(q, positions), rows.turned, rows.values];
        (self.attend(p, found, mask, Some(at + n as u32)), rows.list())
    }

    fn turn<'g>(&self, _: &ParamVars<'g>, cached: &Cached<'_, 'g>, full: Var<'g>) -> Vec<Var<'g>> {
        let (g, m, w) = (full.graph(), self.window.context, self.segment);
        match Rows::new(cached.values) {
            Some(Rows { keys: Some(keys), turned: old, values }) => {
                let begin = |x: Var<'g>| chosen(full, x.slice(2, w, m), x.slice(2, 0, m));
                let put = |old: Var<'g>, new: Var<'g>| old.write_rows(new, g.full_u32([], 0));
                let first = begin(keys);
                let next = Rows {
                    keys: Some(put(keys, first)),
                    turned: put(old, turned(first, g.iota([m], 0))),
                    values: put(values, begin(values)),
                };
                next.list()
            }
            // Nothing is kept, and the next tokens begin at the first row.
            _ => cached.values.to_vec(),
        }
    }
}
