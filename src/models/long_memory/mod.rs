//! Memory routed over long distances: a layer keeps its past inputs on the device, hundreds of thousands of them, a router
//! picks a few for each block, and only those become keys and values.
//!
//! Where it comes from: the to-do list of `block-recurrent-transformer-pytorch` wishes for Transformer-XL memories of up to
//! 250,000 tokens, routed by coordinate descent. Router and attention are those of CoLT5 (Ainslie et al. 2023, arXiv
//! 2303.09752); memories of past inputs, read by attention and detached, are those of Transformer-XL (Dai et al. 2019, arXiv
//! 1901.02860) and of the Memorizing Transformer (Wu et al. 2022, arXiv 2203.08913), which finds keys by their similarity.
//!
//! With x' = x / |x| sqrt(D) the normed input, N slots, and t_r a routing token (plus what it read from the newest inputs):
//!
//! * kept: x' of the last N inputs, as floats or halves. The attention norms its context with a gain of its own, so
//!   keys of x' are those of x, whatever the gain becomes.
//! * score: `s[r, i] = <x'_i, t_r> / |t_r|`, the square root of D times the cosine: of deviation 1 while the token knows nothing
//!   of the inputs. This is the only pass over the table.
//! * choice: the k largest scores of the inputs that exist. Their soft scores y, which add up to k (see
//!   [`SoftTopK`](crate::ops::route::soft_top_k::SoftTopK)), multiply the values, in value by 1: so the router gets a gradient.
//! * reading: attention of the tokens of a block to the keys of the chosen, and to one learned null key a head. With an
//!   empty memory a token gets the null value.
//!
//! What is kept is detached from the inputs. Gradients reach routing tokens, norm, projections, null key and the block's own
//! tokens.
//!
//! ```
//! use wgrad::models::long_memory::{RoutedMemory, RoutedMemoryConfig};
//! use wgrad::nn::Params;
//! use wgrad::{Device, Feed, Graph, Store, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let config = RoutedMemoryConfig { heads: 1, dim_head: 4, ..RoutedMemoryConfig::new(8, 1000, 2) }; // 1000 inputs, 2 read
//! let mut params = Params::new(1);
//! let layer = RoutedMemory::new(&mut params, "memory", config)?;
//!
//! let (device, graph) = (Device::cpu(), Graph::new());
//! let x = graph.input("x", TensorType::f32([1, 4, 8])); // a block of 4 tokens
//! let p = params.vars(&graph);
//! let past = layer.memory(&graph, "past", 1);
//! let y = layer.forward(&p, x, &past);
//! layer.push(&p, &past, x, None).commit(); // the inputs, for the runs that follow
//! let plan = device.compile_blocking(&graph, &[("y", y)])?;
//!
//! let store = params.store(&device)?;
//! layer.clear(&store, "past", 1)?;
//! let x = Tensor::f32([1, 4, 8], (0..32).map(|i| (i as f32).sin()).collect())?;
//! plan.run(&Feed::new().store(&store).input("x", &x))?;
//! let empty = plan.read_blocking("y")?;
//! plan.run(&Feed::new().store(&store).input("x", &x))?; // now it has read what the first run kept
//! assert_ne!(plan.read_blocking("y")?, empty);
//! # Ok(())
//! # }
//! ```

mod config;
mod memory;

pub use config::{Lookback, RoutedMemoryConfig};
pub use memory::LongMemory;

use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::models::conditional::heavy_attention::Keys;
use crate::models::conditional::{Context, HeavyAttention};
use crate::models::parts::{below, expect, within};
use crate::nn::{Init, ParamVars, Params};
use crate::ops::rotary::{Pairs, Rotary};
use crate::types::TensorType;
use memory::Kept;

/// A layer that reads a [`LongMemory`]. Parameters below its name: `routing_token` `[r, D]`, `routing_attn.*` (a
/// [`HeavyAttention`]) where routing tokens look back, and `attn.*` (a [`HeavyAttention`]).
///
/// One block of a stream, as a plan that is run once a block:
///
/// ```
/// # use wgrad::{Device, Feed, Graph, Result, Tensor, TensorType};
/// # use wgrad::models::long_memory::{RoutedMemory, RoutedMemoryConfig};
/// # use wgrad::nn::Params;
/// # fn main() -> Result<()> {
/// let (device, mut params) = (Device::cpu(), Params::new(0));
/// let layer = RoutedMemory::new(&mut params, "long", RoutedMemoryConfig::new(16, 1000, 8))?;
/// let graph = Graph::new();
/// let (p, x) = (params.vars(&graph), graph.input("x", TensorType::f32([1, 4, 16])));
/// let memory = layer.memory(&graph, "long", 1);
/// let y = x + layer.forward(&p, x, &memory);
/// layer.push(&p, &memory, x, None).commit();
/// let plan = device.compile_blocking(&graph, &[("y", y)])?;
///
/// let store = params.store(&device)?;
/// layer.clear(&store, "long", 1)?;
/// for block in 0..3 {
///     let x = Tensor::f32([1, 4, 16], vec![block as f32; 64])?;
///     plan.run(&Feed::new().store(&store).input("x", &x))?;
/// }
/// assert_eq!(store.read_blocking("long.written")?, Tensor::u32([1], vec![12])?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RoutedMemory {
    config: RoutedMemoryConfig,
    routing_token: String,
    lookback: Option<(usize, HeavyAttention)>,
    attention: HeavyAttention,
}

/// What was picked for a block: keys and values that its tokens attend to, however many at a time. They may be kept in
/// states while a block is generated token by token.
#[derive(Clone, Copy, Debug)]
pub struct Recalled<'g> {
    /// Keys `[b, h, k, d]`, turned to their positions if they have any.
    pub keys: Var<'g>,
    /// Values `[b, h, k, d]`, times their scores.
    pub values: Var<'g>,
    /// Which of them exist, u32 0/1 `[b, r, k]`.
    pub mask: Var<'g>,
    /// Slots they are from, then places of this run; u32 `[b, r, k]`, best first.
    pub indices: Var<'g>,
}

impl<'g> Recalled<'g> {
    /// Keys, values and mask, for states of one's own, of the types of [`RoutedMemory::recalled_types`];
    /// [`from_parts`](Self::from_parts) is the way back.
    pub fn parts(&self) -> [Var<'g>; 3] {
        [self.keys, self.values, self.mask]
    }

    /// From [`parts`](Self::parts), for [`RoutedMemory::attend`]. Where the memories are from is not known any more: the mask
    /// stands in for the indices. All zeros are an empty memory.
    pub fn from_parts([keys, values, mask]: [Var<'g>; 3]) -> Self {
        Recalled { keys, values, mask, indices: mask }
    }
}

impl RoutedMemory {
    /// Adds the parameters below `name` (none: at the top).
    ///
    /// # Errors
    /// As [`RoutedMemoryConfig::check`]; [`Error::Limit`] if an index of 32 bits cannot name the rows of one sample.
    pub fn new(params: &mut Params, name: &str, config: RoutedMemoryConfig) -> Result<Self> {
        config.check()?;
        memory::tables(&config, 1)?;
        within("routed memory: routing_token", &[config.routes, config.dim])?;
        let routing_token = below(name, "routing_token");
        params.add(&routing_token, [config.routes, config.dim], Init::Normal { std: 1.0 });
        let lookback = match config.lookback {
            Some(back) => {
                let attention = HeavyAttention::new(params, &below(name, "routing_attn"), config.routing(back))?;
                Some((back.latest, attention))
            }
            None => None,
        };
        let attention = HeavyAttention::new(params, &below(name, "attn"), config.attention())?;
        Ok(RoutedMemory { config, routing_token, lookback, attention })
    }

    /// The options.
    pub fn config(&self) -> &RoutedMemoryConfig {
        &self.config
    }

    /// Names and types of the states of a memory of `batch` samples below `name`: for checkpoints.
    ///
    /// # Errors
    /// [`Error::Argument`] for a batch of 0; [`Error::Limit`] if an index of 32 bits cannot name all its rows, or a row
    /// exceeds a binding.
    pub fn states(&self, name: &str, batch: usize) -> Result<Vec<(String, TensorType)>> {
        memory::states(&self.config, name, batch)
    }

    /// Adds these states to a store, or forgets what is in them. One sample is forgotten by setting its entry of
    /// `<name>.written` to 0.
    ///
    /// # Errors
    /// As [`states`](Self::states) and [`Store::set_zeros`].
    pub fn clear(&self, store: &Store, name: &str, batch: usize) -> Result<()> {
        memory::clear(&self.config, store, name, batch)
    }

    /// Types of [`Recalled::parts`] where `pushed` inputs of each of `batch` samples went into a stored memory in the same run.
    pub fn recalled_types(&self, batch: usize, pushed: usize) -> [TensorType; 3] {
        let c = &self.config;
        let k = c.selected.min(c.capacity.saturating_add(pushed));
        let keys = TensorType::f32([batch, c.heads, k, c.dim_head]);
        [keys.clone(), keys, TensorType::u32([batch, c.routes, k])]
    }

    /// The memory as states of a graph.
    #[track_caller]
    pub fn memory<'g>(&self, graph: &'g Graph, name: &str, batch: usize) -> LongMemory<'g> {
        LongMemory::new(&self.config, graph, Some(name), batch)
    }

    /// A memory that begins with the run and is not kept: it holds what the run pushes.
    #[track_caller]
    pub fn fresh<'g>(&self, graph: &'g Graph, batch: usize) -> LongMemory<'g> {
        LongMemory::new(&self.config, graph, None, batch)
    }

    /// What the tokens `x` `[b, n, D]` of a block read from memory: `[b, n, D]`, without residual.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, memory: &LongMemory<'g>) -> Var<'g> {
        self.attend(p, x, None, &self.recall(p, memory))
    }

    /// Routing tokens `[1 or b, r, D]` of unit length.
    fn tokens<'g>(&self, p: &ParamVars<'g>, memory: &LongMemory<'g>) -> Var<'g> {
        let own = p.get(&self.routing_token).unsqueeze(0);
        let latest = self.lookback.as_ref().and_then(|(count, attention)| Some((memory.latest(*count)?, attention)));
        let tokens = match latest {
            None => own,
            Some(((rows, mask), attention)) => {
                let own = own.expand([memory.batch(), self.config.routes, self.config.dim]);
                let context = Context { tokens: Some(rows), mask: Some(mask), ..Context::default() };
                own + attention.forward(p, own, None, None, &context)
            }
        };
        tokens.l2_normalize(1e-12)
    }

    /// Picks memories and makes their keys and values.
    #[track_caller]
    pub fn recall<'g>(&self, p: &ParamVars<'g>, memory: &LongMemory<'g>) -> Recalled<'g> {
        let (g, c, b) = (p.graph(), &self.config, memory.batch());
        let (age, visible) = memory.ages();
        let scores = if memory.is_empty() { None } else { memory.scores(self.tokens(p, memory)) };
        let Some(scores) = scores else {
            if !memory.is_empty() {
                g.fail(Error::argument("routed memory", "the memory was made by a layer of other options"));
            }
            // One that does not exist: tokens get the null value.
            let none = g.full([b, c.heads, 1, c.dim_head], 0.0);
            let one = g.full_u32([b, c.routes, 1], 0);
            return Recalled { keys: none, values: none, mask: one, indices: one };
        };
        let slots = scores.dim(2);
        let each = |x: Var<'g>| x.unsqueeze(1).expand([b, c.routes, slots]);
        let order = memory.oldest_first().map(each);
        let sorted = |x: Var<'g>| order.map_or(x, |order| x.take_along(order, 2));
        let (scores, visible, age) = (sorted(scores), sorted(each(visible)), sorted(each(age)));
        let picked = scores.top_k_masked(c.selected.min(slots), visible).indices;
        let indices = order.map_or(picked, |order| order.take_along(picked, 2));
        let mask = visible.take_along(picked, 2);
        let soft = scores.soft_top_k(c.selected, &c.how, Some(visible)).take_along(picked, 2);
        let gates = match c.straight_through {
            true => g.full(soft.shape(), 1.0).straight_through(soft).keep_where(mask, 0.0),
            false => soft,
        };
        let positions = c.max_distance.map(|most| {
            let age = age.take_along(picked, 2);
            g.full_u32([], most as u32) - age.minimum(g.full_u32([], most as u32))
        });
        let context = Context { tokens: None, mask: Some(mask), scores: Some(gates), positions };
        let keys = match memory.take(Kept::Finished, indices) {
            Some(rows) => self.finished(rows, &context),
            None => {
                let rows = memory.take(Kept::Inputs, indices).unwrap_or(scores);
                // What is in an unused slot must not matter.
                let rows = rows.keep_where(mask.unsqueeze(3), 0.0);
                self.attention.keys(p, rows, &context)
            }
        };
        Recalled { keys: keys.k, values: keys.v, mask, indices }
    }

    /// Keys and values from rows `[b, r, k, 2 h d]` of finished ones.
    fn finished<'g>(&self, rows: Var<'g>, context: &Context<'g>) -> Keys<'g> {
        let RoutedMemoryConfig { heads: h, dim_head: d, routes: r, .. } = self.config;
        let (b, k) = (rows.dim(0), rows.dim(2));
        let rows = context.mask.map_or(rows, |mask| rows.keep_where(mask.unsqueeze(3), 0.0));
        // Each route has its own heads.
        let rows = rows.reshape([b, r, k, r, h / r * 2 * d]);
        let own = |i| rows.slice(1, i, 1).slice(3, i, 1);
        let parts: Vec<Var<'g>> = (1..r).map(own).collect();
        let rows = own(0).concat(&parts, 1).reshape([b * r, k, h / r, 2, d]);
        let part = |i| rows.select_index(3, i).permute(&[0, 2, 1, 3]);
        let (mut keys, mut values) = (part(0), part(1));
        if let Some(scores) = context.scores {
            let scores = scores.reshape([b * r, 1, k, 1]);
            values = values * scores;
            if self.config.multiply_keys_by_score {
                keys = keys * scores;
            }
        }
        if let Some(positions) = context.positions {
            let rotary = Rotary { pairs: Pairs::Half, ..Rotary::default() };
            keys = keys.rotary(positions.reshape([b * r, k]), &rotary);
        }
        let whole = |x: Var<'g>| x.reshape([b, h, k, d]);
        Keys { k: whole(keys), v: whole(values), mask: context.mask, routes: r }
    }

    /// What the tokens `x` `[b, n, D]` read from what was recalled for their block: `[b, n, D]`. `positions` (u32 `[n]` or
    /// `[b, n]`) are their places in the block, 0 and on if not given; they matter only where memories have positions.
    #[track_caller]
    pub fn attend<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        positions: Option<Var<'g>>,
        recalled: &Recalled<'g>,
    ) -> Var<'g> {
        let (g, n) = (p.graph(), x.dim(1));
        expect(g, "routed memory: tokens", x, &TensorType::f32([recalled.keys.dim(0), n, self.config.dim]));
        let positions = self.config.max_distance.map(|most| positions.unwrap_or_else(|| g.iota([n], 0)) + most as u32);
        let keys = Keys { k: recalled.keys, v: recalled.values, mask: Some(recalled.mask), routes: self.config.routes };
        self.attention.attend(p, self.attention.queries(p, x, None, positions), &keys)
    }

    /// The memory with the inputs `x` `[b, n, D]`, detached; of each sample the first `counts` (u32 `[b]`), or all. Blocks that
    /// follow in the same graph see them; [`LongMemory::commit`] keeps them.
    #[track_caller]
    pub fn push<'g>(
        &self,
        p: &ParamVars<'g>,
        memory: &LongMemory<'g>,
        x: Var<'g>,
        counts: Option<Var<'g>>,
    ) -> LongMemory<'g> {
        let (g, c, b, n) = (p.graph(), &self.config, memory.batch(), x.dim(1));
        expect(g, "routed memory: inputs", x, &TensorType::f32([b, n, c.dim]));
        if let Some(counts) = counts {
            expect(g, "routed memory: counts", counts, &TensorType::u32([b]));
        }
        if g.error().is_some() {
            return memory.clone();
        }
        let rows = x.stop_gradient().rms_norm(None);
        memory.push(n, counts, |kept| match kept {
            Kept::Inputs => rows,
            Kept::Scores => rows.matmul(self.tokens(p, memory).transpose(1, 2)),
            Kept::Finished => {
                let keys = self.attention.keys(p, rows, &Context::default());
                let part = |x: Var<'g>| x.permute(&[0, 2, 1, 3]).unsqueeze(3);
                let width = 2 * c.heads * c.dim_head;
                part(keys.k).concat(&[part(keys.v)], 3).reshape([b, n, width])
            }
        })
    }
}
