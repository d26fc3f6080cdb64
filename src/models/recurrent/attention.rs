//! Attention of a block of tokens to itself, to the keys and values of the blocks before, and to recurrent states.

use super::Lookback;
use super::core::{Core, CoreConfig, merge};
use super::memory::Memory;
use super::norm::Norm;
use super::state::{Readable, StateContainer, StateContainerConfig, StateView};
use crate::graph::Var;
use crate::models::parts::{below, expect, refuse};
use crate::nn::{Linear, ParamVars, Params};
use crate::ops::attention::Attention;
use crate::ops::rotary::{Pairs, Rotary, XPos};
use crate::types::TensorType;

/// Positions per power of the xPos scale.
const SCALE_BASE: f64 = 512.0;

/// Options of an [`AttentionBlock`].
#[derive(Clone, Debug)]
pub struct AttentionBlockConfig {
    /// Features of a token.
    pub dim: usize,
    /// Tokens of a block.
    pub block_width: usize,
    /// Features of a head.
    pub dim_head: usize,
    /// Query heads; all share one head of keys and values.
    pub heads: usize,
    /// Normalise queries and keys.
    pub qk_rmsnorm: bool,
    /// Scale of normalised scores; `None`: one over the square root of `dim_head`, as the package has it.
    pub qk_rmsnorm_scale: Option<f64>,
    /// Rows of the table of rotary positions, twice the block or more: the last key has the last. `None`: no positions.
    pub positions: Option<usize>,
    /// How far back tokens look.
    pub lookback: Lookback,
    /// States that the layer writes.
    pub states: Option<StateContainerConfig>,
    /// Banks of states that are read here, its own included.
    pub state_reads: usize,
    /// The states' parameters lie beside the layer's, as in checkpoints up to version 0.3.1, not below `state_container`.
    pub flat_state_names: bool,
}

impl AttentionBlockConfig {
    /// The package's defaults, with rotary positions and without states.
    pub fn new(dim: usize, block_width: usize) -> Self {
        AttentionBlockConfig {
            dim,
            block_width,
            dim_head: 64,
            heads: 8,
            qk_rmsnorm: false,
            qk_rmsnorm_scale: None,
            positions: Some(block_width.saturating_mul(2)),
            lookback: Lookback::default(),
            states: None,
            state_reads: 0,
            flat_state_names: false,
        }
    }
}

/// A block of tokens as all branches of the layer see it.
#[derive(Clone, Copy, Debug)]
pub struct Projected<'g> {
    /// Normed tokens `[b, n, D]`.
    pub x: Var<'g>,
    /// Queries `[b, h, n, d]`.
    pub q: Var<'g>,
    /// Keys and values `[b, n, d]`: what later blocks remember.
    pub memory: Memory<'g>,
}

/// Results of [`AttentionBlock::forward`].
#[derive(Clone, Copy, Debug)]
pub struct Attended<'g> {
    /// `[b, n, D]`
    pub out: Var<'g>,
    /// The block's own keys and values.
    pub memory: Memory<'g>,
    /// The next states `[b, N, D]`, if the layer writes any.
    pub states: Option<Var<'g>>,
}

/// Keys and values of the current block behind those of the past, at a fixed capacity: for tokens that come one by one.
#[derive(Clone, Copy, Debug)]
pub struct BlockCache<'g> {
    /// Keys before norms and positions, `[b, m + w, d]`.
    pub keys: Var<'g>,
    /// Keys as they are compared, `[b, m + w, d]`.
    pub turned: Var<'g>,
    /// Values, `[b, m + w, d]`.
    pub values: Var<'g>,
    /// How many of the first m rows there are (u32 `[b]`), the last ones.
    pub count: Var<'g>,
}

/// One layer of attention. Parameters below its name: `norm.gamma`, `to_q.weight` `[h d, D]`, `to_kv.weight` `[2 d, D]`,
/// `to_out.weight` `[D, h d (1 + reads)]`, `attn.q_scale` and `attn.k_scale` `[d]` with norms, and those of its
/// [`StateContainer`].
#[derive(Clone, Debug)]
pub struct AttentionBlock {
    config: AttentionBlockConfig,
    norm: Norm,
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    core: Core,
    states: Option<StateContainer>,
}

impl AttentionBlock {
    /// Adds the parameters below `name` (none: at the top).
    pub fn new(params: &mut Params, name: &str, config: AttentionBlockConfig) -> Self {
        let c = &config;
        let (dim, inner) = (c.dim, c.heads.saturating_mul(c.dim_head));
        let norm = Norm::new(params, &below(name, "norm"), dim);
        let to_q = Linear::new(params, &below(name, "to_q"), dim, inner, false);
        let to_kv = Linear::new(params, &below(name, "to_kv"), dim, c.dim_head.saturating_mul(2), false);
        let core = CoreConfig {
            heads: c.heads,
            dim_head: c.dim_head,
            qk_rmsnorm: c.qk_rmsnorm,
            qk_rmsnorm_scale: c.qk_rmsnorm_scale,
        };
        let core = Core::new(params, &below(name, "attn"), &core);
        let own = if c.flat_state_names { name.to_owned() } else { below(name, "state_container") };
        let states = c.states.clone().map(|states| StateContainer::new(params, &own, states));
        let found = inner.saturating_mul(c.state_reads.saturating_add(1));
        let to_out = Linear::new(params, &below(name, "to_out"), found, dim, false);
        AttentionBlock { norm, to_q, to_kv, to_out, core, states, config }
    }

    /// The options.
    pub fn config(&self) -> &AttentionBlockConfig {
        &self.config
    }

    /// The states that the layer writes.
    pub fn states(&self) -> Option<&StateContainer> {
        self.states.as_ref()
    }

    /// Norm and projections of tokens `x` `[b, n, D]`.
    #[track_caller]
    pub fn project<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Projected<'g> {
        let (x, d) = (self.norm.forward(p, x), self.config.dim_head);
        let q = self.core.split(self.to_q.forward(p, x));
        let kv = self.to_kv.forward(p, x);
        Projected { x, q, memory: Memory { keys: kv.slice(2, 0, d), values: kv.slice(2, d, d), count: None } }
    }

    /// Turns the last two dimensions of `x` to `positions`, `[n]` or `[b, n]`; queries grow with them, keys shrink.
    #[track_caller]
    fn rotate<'g>(&self, x: Var<'g>, positions: Var<'g>, invert: bool) -> Var<'g> {
        let Some(table) = self.config.positions else { return x };
        let xpos = Some(XPos { center: table as u32 / 2, scale_base: SCALE_BASE, invert });
        x.rotary(positions, &Rotary { pairs: Pairs::Half, xpos, ..Rotary::default() })
    }

    #[track_caller]
    fn queries<'g>(&self, p: &ParamVars<'g>, q: Var<'g>, positions: Var<'g>) -> Var<'g> {
        self.rotate(self.core.queries(p, q), positions, false)
    }

    #[track_caller]
    fn keys<'g>(&self, p: &ParamVars<'g>, k: Var<'g>, positions: Var<'g>) -> Var<'g> {
        self.rotate(self.core.keys(p, k), positions, true)
    }

    /// Position of the first of `rows` keys: the last has the last of the table.
    fn first(&self, rows: usize) -> u32 {
        self.config.positions.map_or(0, |table| table.saturating_sub(rows)) as u32
    }

    /// What tokens see. Where the package bounds the distance the window does.
    fn seen<'g>(&self, mask: Option<Var<'g>>) -> Attention<'g> {
        let window = (self.config.lookback == Lookback::Width).then_some(self.config.block_width);
        Attention { causal: true, window, mask, ..Attention::default() }
    }

    /// Attention of a block to itself and to the past: `[b, n, h d]`.
    #[track_caller]
    pub fn attend<'g>(&self, p: &ParamVars<'g>, block: &Projected<'g>, past: Option<&Memory<'g>>) -> Var<'g> {
        let g = block.x.graph();
        let (mut keys, mut values) = (block.memory.keys, block.memory.values);
        let (b, n) = (keys.dim(0), keys.dim(1));
        if let Some(past) = past {
            let want = TensorType::f32([b, past.rows(), self.config.dim_head]);
            expect(g, "memories: keys", past.keys, &want);
            expect(g, "memories: values", past.values, &want);
            (keys, values) = (past.keys.concat(&[keys], 1), past.values.concat(&[values], 1));
        }
        let all = keys.dim(1);
        if let Some(table) = self.config.positions.filter(|table| all > *table) {
            let message = format!("{n} tokens and {} memories; expected at most {table} together", all - n);
            refuse(g, "AttentionBlock", message);
        }
        let q = self.queries(p, block.q, g.iota([n], 0) + self.first(n));
        let k = self.keys(p, keys, g.iota([all], 0) + self.first(all));
        let mask = past.and_then(|past| past.mask(g, n));
        merge(self.core.attend(q, k, values, &self.seen(mask)))
    }

    /// Joins what the branches found, `[b, n, h d]` each: the attention, then the banks of states.
    #[track_caller]
    pub fn out<'g>(&self, p: &ParamVars<'g>, attended: Var<'g>, read: &[Var<'g>]) -> Var<'g> {
        let all = if read.is_empty() { attended } else { attended.concat(read, 2) };
        self.to_out.forward(p, all)
    }

    /// A block `x` `[b, n, D]` after the blocks of `past`. `reads` are the banks of states that this layer reads, in the order of
    /// their writers; `own` are the states that it writes itself.
    #[track_caller]
    pub fn forward<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        past: Option<&Memory<'g>>,
        reads: &[(&StateContainer, Readable<'g>)],
        own: Option<&StateView<'g>>,
    ) -> Attended<'g> {
        let block = self.project(p, x);
        let attended = self.attend(p, &block, past);
        let read: Vec<Var<'g>> = reads.iter().map(|(bank, states)| bank.read(p, block.x, states)).collect();
        let states = self.states.as_ref().zip(own).map(|(bank, view)| bank.write(p, &block.memory, view));
        Attended { out: self.out(p, attended, &read), memory: block.memory, states }
    }

    /// Attention of new tokens `x` `[b, n, D]` after `length` (u32 `[b]`) tokens of the same block, and the cache with the new
    /// ones in it. Tokens past the block are dropped. `reads` as for [`forward`](Self::forward).
    #[track_caller]
    pub fn forward_cached<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        length: Var<'g>,
        cache: &BlockCache<'g>,
        reads: &[(&StateContainer, Readable<'g>)],
    ) -> (Var<'g>, BlockCache<'g>) {
        let (g, b, n) = (x.graph(), x.dim(0), x.dim(1));
        let rows = cache.keys.dim(1);
        let m = rows.saturating_sub(self.config.block_width);
        let block = self.project(p, x);
        // Where the new rows stand in the cache.
        let at = length + m as u32;
        let positions = at.reshape([b, 1]) + g.iota([b, n], 1) + self.first(rows);
        let put = |old: Var<'g>, new: Var<'g>| old.write_rows(new, at);
        let new = BlockCache {
            keys: put(cache.keys, block.memory.keys),
            turned: put(cache.turned, self.keys(p, block.memory.keys, positions)),
            values: put(cache.values, block.memory.values),
            count: cache.count,
        };
        let there = (g.iota([b, rows], 1) + cache.count.reshape([b, 1])).ge(m as u32);
        let options = Attention { valid: Some(at + n as u32), ..self.seen(Some(there)) };
        let q = self.queries(p, block.q, positions);
        let attended = merge(self.core.attend(q, new.turned, new.values, &options));
        let read: Vec<Var<'g>> = reads.iter().map(|(bank, states)| bank.read(p, block.x, states)).collect();
        (self.out(p, attended, &read), new)
    }

    /// A cache whose past is `memory` (of the cache's capacity) and whose block is still empty; `old` lends its room.
    #[track_caller]
    pub fn next_cache<'g>(&self, p: &ParamVars<'g>, memory: &Memory<'g>, old: &BlockCache<'g>) -> BlockCache<'g> {
        let (g, rows) = (memory.keys.graph(), old.keys.dim(1));
        let put = |old: Var<'g>, new: Var<'g>| old.write_rows(new, g.full_u32([], 0));
        let positions = g.iota([memory.rows()], 0) + self.first(rows);
        BlockCache {
            keys: put(old.keys, memory.keys),
            turned: put(old.turned, self.keys(p, memory.keys, positions)),
            values: put(old.values, memory.values),
            count: memory.count(),
        }
    }
}
