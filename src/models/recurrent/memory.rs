//! Keys and values of past blocks (Dai et al. 2019, arXiv 1901.02860), and their compression (Rae et al. 2020, arXiv
//! 1911.05507).

use crate::graph::{Graph, Var};
use crate::models::parts::below;
use crate::nn::{Init, ParamVars, Params};

/// Keys and values of past tokens of one layer, before norms and positions, the latest last.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'g> {
    /// `[b, m, d]`
    pub keys: Var<'g>,
    /// `[b, m, d]`
    pub values: Var<'g>,
    /// How many of the last rows each text has (u32 `[b]`): the rows before them are none. Absent: all.
    pub count: Option<Var<'g>>,
}

impl<'g> Memory<'g> {
    /// From the package's layout, `[2, b, m, d]`.
    #[track_caller]
    pub fn from_stacked(stacked: Var<'g>) -> Self {
        Memory { keys: stacked.select_index(0, 0), values: stacked.select_index(0, 1), count: None }
    }

    /// In the package's layout, `[2, b, m, d]`.
    #[track_caller]
    pub fn stacked(&self) -> Var<'g> {
        self.keys.unsqueeze(0).concat(&[self.values.unsqueeze(0)], 0)
    }

    /// Rows, counted or not.
    pub fn rows(&self) -> usize {
        self.keys.dim(1)
    }

    /// The same numbers, cut from the graph.
    pub fn detach(&self) -> Self {
        Memory { keys: self.keys.stop_gradient(), values: self.values.stop_gradient(), count: self.count }
    }

    /// Only as many of the last rows as `count` (u32, `[b]` or a scalar) says.
    #[track_caller]
    pub fn counted(&self, count: Var<'g>) -> Self {
        let b = self.keys.dim(0);
        Memory { count: Some(if count.rank() == 0 { count.expand([b]) } else { count }), ..*self }
    }

    /// The count, u32 `[b]`, also where it is all rows.
    pub fn count(&self) -> Var<'g> {
        self.count.unwrap_or_else(|| self.keys.graph().full_u32([self.keys.dim(0)], self.rows() as u32))
    }

    /// Mask u32 `[b, m + more]` of the rows that are there, and of `more` that follow.
    #[track_caller]
    pub(super) fn mask(&self, graph: &'g Graph, more: usize) -> Option<Var<'g>> {
        let (b, m) = (self.keys.dim(0), self.rows());
        let count = self.count?.reshape([b, 1]);
        Some((graph.iota([b, m + more], 1) + count).ge(m as u32))
    }

    fn map(&self, f: impl Fn(Var<'g>) -> Var<'g>) -> Self {
        Memory { keys: f(self.keys), values: f(self.values), count: None }
    }

    #[track_caller]
    fn then(&self, later: &Memory<'g>) -> Self {
        let keys = self.keys.concat(&[later.keys], 1);
        Memory { keys, values: self.values.concat(&[later.values], 1), count: None }
    }

    #[track_caller]
    fn last(&self, n: usize) -> Self {
        let n = n.min(self.rows());
        self.map(|x| x.slice(1, x.dim(1) - n, n))
    }

    #[track_caller]
    fn but_last(&self, n: usize) -> Self {
        self.map(|x| x.slice(1, 0, x.dim(1).saturating_sub(n)))
    }
}

/// What becomes of the keys and values of a block that leaves the window: a convolution turns every `factor` of them into
/// one. Parameters `weight` `[2 d, d, factor]` and `bias` `[2 d]` below its name: the first half for keys, the rest for values.
#[derive(Clone, Debug)]
pub struct Compression {
    weight: String,
    bias: String,
    dim_head: usize,
    factor: usize,
    width: usize,
}

impl Compression {
    /// Adds the parameters below `name`; the factor is at least 1.
    pub fn new(params: &mut Params, name: &str, dim_head: usize, factor: usize, width: usize) -> Self {
        let (weight, bias) = (below(name, "weight"), below(name, "bias"));
        let (factor, both) = (factor.max(1), dim_head.saturating_mul(2));
        let bound = 1.0 / (dim_head.saturating_mul(factor).max(1) as f32).sqrt();
        params.add(&weight, [both, dim_head, factor], Init::Uniform { bound });
        params.add(&bias, [both], Init::Uniform { bound });
        Compression { weight, bias, dim_head, factor, width }
    }

    /// Rows that compressed memories have at most, in front of a block's.
    pub fn capacity(width: usize) -> usize {
        width / 2
    }

    /// `x` `[b, n, d]`, n a multiple of the factor, to `[b, n / factor, d]`. The windows of the convolution lie side by side, so
    /// it is one matrix product. `part` 0: keys, 1: values.
    #[track_caller]
    fn convolve<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, part: usize) -> Var<'g> {
        let (d, f) = (self.dim_head, self.factor);
        let windows = x.dim(1) / f;
        let weight = p.get(&self.weight).slice(0, part * d, d).permute(&[2, 1, 0]).reshape([f * d, d]);
        let bias = p.get(&self.bias).slice(0, part * d, d);
        (x.reshape([x.dim(0) * windows, f * d]).matmul(weight) + bias).reshape([x.dim(0), windows, d])
    }

    /// Memories after a block: `[compressed | the last `width` rows]`.
    #[track_caller]
    pub fn update<'g>(&self, p: &ParamVars<'g>, past: Option<&Memory<'g>>, block: &Memory<'g>) -> Memory<'g> {
        let Some(past) = past else { return block.last(self.width) };
        let (older, recent) = (past.but_last(self.width), past.last(self.width).then(block));
        let (leaving, recent) = (recent.but_last(self.width), recent.last(self.width));
        let capacity = Self::capacity(self.width);
        let kept = leaving.rows() / self.factor * self.factor;
        let mut compressed = older.last(capacity);
        if kept > 0 {
            let leaving = leaving.last(kept);
            let new = Memory {
                keys: self.convolve(p, leaving.keys, 0),
                values: self.convolve(p, leaving.values, 1),
                count: None,
            };
            compressed = compressed.then(&new).last(capacity);
        }
        let next = compressed.then(&recent);
        match past.count {
            None => next,
            // A text without a past has only the block; nothing of what was compressed for it counts.
            Some(count) => {
                let more = (count + (kept / self.factor) as u32).minimum(next.rows() as u32);
                let fresh = count.graph().full_u32([], block.rows() as u32);
                Memory { count: Some(count.gt(0).select(more, fresh)), ..next }
            }
        }
    }
}
