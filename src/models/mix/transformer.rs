//! The decoder: embedding, layers, logits; segment after segment.

use super::config::MemoryConfig;
use super::layer::{Layer, LayerCarried};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::models::parts::{expect, refuse};
use crate::models::product_key::{VALUES, values_group};
use crate::nn::{Embedding, Init, Linear, ParamVars, Params};
use crate::train::Group;
use crate::types::{DType, Tensor, TensorType};

/// State: tokens that each text had in the segments before.
const SEEN: &str = "mix.seen";
/// What [`SEEN`] stops at.
pub(super) const MOST: u32 = 1 << 30;
/// Parameter of the last norm.
const GAMMA: &str = "norm.gamma";

/// A decoder made of any of the parts of [`MemoryConfig`]. It holds no values: parameters live in [`Params`] and a store.
///
/// Parameters: `token_emb.weight` `[num_tokens, D]`, `layers.{i}.attention.*`, `layers.{i}.long_memory.*`,
/// `layers.{i}.feed_forward.*`, `norm.gamma` `[D]`, `to_logits.weight` `[num_tokens, D]`, `to_logits.bias`.
#[derive(Clone, Debug)]
pub struct MemoryTransformer {
    config: MemoryConfig,
    params: Params,
    tokens: Embedding,
    pub(super) layers: Vec<Layer>,
    to_logits: Linear,
}

/// What the layers carry from segment to segment of `b` texts.
#[derive(Clone)]
pub struct Carried<'g> {
    batch: usize,
    /// Tokens before, u32 `[b]`; none where all texts begin in this graph.
    seen: Option<Var<'g>>,
    layers: Vec<LayerCarried<'g>>,
}

impl MemoryTransformer {
    /// A model.
    ///
    /// # Errors
    /// As [`MemoryConfig::check`]; [`Error::Argument`] names the layer whose module refuses its options.
    pub fn new(config: MemoryConfig) -> Result<Self> {
        config.check()?;
        let mut params = Params::new(0);
        let tokens = Embedding::new(&mut params, "token_emb", config.num_tokens, config.dim);
        let mut layers = Vec::new();
        for (i, layer) in config.layers.iter().enumerate() {
            let made = Layer::new(&mut params, i, &config, layer);
            layers.push(made.map_err(|e| Error::argument(format!("MemoryConfig: layers[{i}]"), e.to_string()))?);
        }
        params.add(GAMMA, [config.dim], Init::Ones);
        let to_logits = Linear::new(&mut params, "to_logits", config.dim, config.num_tokens, true);
        Ok(MemoryTransformer { config, params, tokens, layers, to_logits })
    }

    /// The options.
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// Fresh parameters: embedding, states' positions and routing tokens N(0, 1), linear maps uniform within 1/sqrt(inputs),
    /// gains 1, keys and values of product-key memories as theirs.
    pub fn init(&self, seed: u64) -> Params {
        self.params.clone().with_seed(seed)
    }

    /// Groups of parameters that a trainer of learning rate `lr` does not treat like the rest: the values of product-key
    /// memories, with a learning rate of `values_lr` and updates of the rows that were read. For
    /// [`TrainerBuilder::group`](crate::train::TrainerBuilder::group).
    pub fn groups(&self, lr: f64, values_lr: f64) -> Vec<(&'static str, Group)> {
        let has_values = self.params.iter().any(|p| p.group_name() == VALUES);
        if has_values { vec![(VALUES, values_group(lr, values_lr))] } else { Vec::new() }
    }

    /// The start of `batch` texts: nothing is read from states, and what is carried stays in the graph.
    pub fn fresh<'g>(&self, graph: &'g Graph, batch: usize) -> Carried<'g> {
        Carried { batch, seen: None, layers: self.layers.iter().map(|layer| layer.fresh(graph, batch)).collect() }
    }

    /// Names and types of the states of `batch` texts, for [`TrainerBuilder::carry`](crate::train::TrainerBuilder::carry).
    /// Zeros are the start of a text.
    ///
    /// # Errors
    /// [`Error::Limit`] if a memory is too large for its indices or bindings; [`Error::Argument`] for a batch of 0 where a
    /// layer has one.
    pub fn states(&self, batch: usize) -> Result<Vec<(String, TensorType)>> {
        let mut all = vec![(SEEN.to_owned(), TensorType::u32([batch]))];
        for layer in &self.layers {
            all.extend(layer.states(batch)?);
        }
        Ok(all)
    }

    /// A store with these states at the start of their texts, for plans outside a trainer.
    ///
    /// # Errors
    /// As [`states`](Self::states) and [`Store::set`].
    pub fn store(&self, device: &Device, batch: usize) -> Result<Store> {
        let store = Store::new(device);
        store.reserve(&self.states(batch)?)?;
        Ok(store)
    }

    /// Lets all texts of a store begin anew, like `begin` in [`carried`](Self::carried).
    ///
    /// # Errors
    /// As [`states`](Self::states) and [`Store::set`].
    pub fn restart(&self, store: &Store, batch: usize) -> Result<()> {
        for (name, ty) in self.states(batch)? {
            if name == SEEN || name.ends_with(".written") {
                store.set(&name, &Tensor::zeros(&ty))?;
            }
        }
        Ok(())
    }

    /// What the [`states`](Self::states) hold; texts marked in `begin` (u32 0/1 `[b]`) start anew.
    #[track_caller]
    pub fn carried<'g>(&self, graph: &'g Graph, batch: usize, begin: Option<Var<'g>>) -> Carried<'g> {
        let mut seen = graph.state(SEEN, TensorType::u32([batch]));
        if let Some(begin) = begin {
            expect(graph, "MemoryTransformer: begin", begin, &TensorType::u32([batch]));
            seen = begin.select(graph.full_u32([batch], 0), seen);
        }
        let layers = self.layers.iter().map(|layer| layer.state(graph, batch, begin)).collect();
        Carried { batch, seen: Some(seen), layers }
    }

    /// Keeps `new` in the states, which `old` was made of.
    fn keep<'g>(&self, graph: &'g Graph, old: &Carried<'g>, new: &Carried<'g>) {
        let Some(seen) = new.seen else { return };
        graph.assign(graph.state(SEEN, seen.ty()), seen);
        for (layer, (old, new)) in self.layers.iter().zip(old.layers.iter().zip(&new.layers)) {
            layer.keep(old, new);
        }
    }

    /// Features of ids u32, any shape; ids outside the vocabulary become zeros.
    #[track_caller]
    pub(super) fn embed<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.tokens.forward(p, ids)
    }

    /// Features `[b, n, D]` of a segment, n at most its length, and what the next one gets if the segment is full.
    #[track_caller]
    fn segment<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, carried: &Carried<'g>) -> (Var<'g>, Carried<'g>) {
        let g = ids.graph();
        let mut x = self.embed(p, ids);
        let mut layers = Vec::new();
        for (layer, carried_here) in self.layers.iter().zip(&carried.layers) {
            let step = || layer.forward(p, x, carried_here, carried.seen);
            let (y, next) = if self.config.recompute { g.recompute(step) } else { step() };
            x = y;
            layers.push(next);
        }
        let most = g.full_u32([], MOST);
        let seen = carried.seen.map(|seen| (seen + ids.dim(1) as u32).minimum(most));
        (x, Carried { seen, layers, ..*carried })
    }

    /// Logits `[.., num_tokens]` of features `[.., D]`.
    #[track_caller]
    pub(super) fn logits<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        self.to_logits.forward(p, x.rms_norm(p.get(GAMMA)))
    }

    /// Logits `[b, n, num_tokens]` of ids u32 `[b, n]` that follow what is carried, and what is carried on. Ids outside the
    /// vocabulary become zeros. The last segment may be shorter; then nothing can follow it.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, carried: &Carried<'g>) -> (Var<'g>, Carried<'g>) {
        let (g, n, w) = (ids.graph(), ids.dim(1), self.config.segment);
        if ids.dtype() != DType::U32 || ids.rank() != 2 || n == 0 {
            let message = format!("expected ids u32 [batch, n] with n at least 1, got {}", ids.ty());
            refuse(g, "MemoryTransformer::forward", message);
            return (g.full([ids.dim(0), n, self.config.num_tokens], 0.0), carried.clone());
        }
        if ids.dim(0) != carried.batch {
            let message = format!("ids of batch {}, but what is carried is of batch {}", ids.dim(0), carried.batch);
            refuse(g, "MemoryTransformer::forward", message);
            return (g.full([ids.dim(0), n, self.config.num_tokens], 0.0), carried.clone());
        }
        let (mut parts, mut carried) = (Vec::new(), carried.clone());
        for start in (0..n).step_by(w) {
            let (part, next) = self.segment(p, ids.slice(1, start, w.min(n - start)), &carried);
            parts.push(part);
            carried = next;
        }
        let x = match parts.split_first() {
            Some((first, rest)) if !rest.is_empty() => first.concat(rest, 1),
            Some((first, _)) => *first,
            None => g.full([ids.dim(0), n, self.config.dim], 0.0),
        };
        (self.logits(p, x), carried)
    }

    fn loss_after<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, carried: &Carried<'g>) -> (Var<'g>, Carried<'g>) {
        let (b, n) = (ids.dim(0), ids.dim(1).saturating_sub(1));
        let (logits, next) = self.forward(p, ids.slice(1, 0, n), carried);
        let labels = ids.slice(1, 1.min(ids.dim(1)), n).reshape([b * n]);
        let logits = logits.reshape([b * n, self.config.num_tokens]);
        (logits.cross_entropy_mean(labels, None), next)
    }

    /// Mean cross entropy of the next token over texts u32 `[b, n + 1]` from their start, any n; labels of `u32::MAX` do not
    /// count. Gradients cross the segments, but not the inputs that long memories and routed attention keep.
    #[track_caller]
    pub fn loss<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.loss_after(p, ids, &self.fresh(ids.graph(), ids.dim(0))).0
    }

    /// Loss of the next s segments of each text, ids u32 `[b, s segment + 1]` of which the last is the first of the call after.
    /// What they leave replaces the [`states`](Self::states) at the end of the run: a plan replayed reads a text of any
    /// length, and gradients stop at its calls. Texts marked in `begin` (u32 0/1, `[b]`) start anew.
    ///
    /// ```no_run
    /// # use wgrad::{Device, Result, TensorType, models::mix::MemoryTransformer, train::{AdamW, Trainer}};
    /// # fn f(device: &Device, model: MemoryTransformer) -> Result<()> {
    /// let (batch, length) = (4, model.config().segment);
    /// let mut builder = Trainer::builder(device, model.init(1), AdamW::default().lr(1e-3));
    /// for (name, group) in model.groups(1e-3, 1e-2) {
    ///     builder = builder.group(name, group);
    /// }
    /// let trainer = builder
    ///     .config(model.config().to_json())
    ///     .carry(model.states(batch)?) // in the checkpoint too
    ///     .compile_blocking(|graph, p| {
    ///         let ids = graph.input("ids", TensorType::u32([batch, length + 1]));
    ///         model.segment_loss(p, ids, None)
    ///     })?;
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn segment_loss<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, begin: Option<Var<'g>>) -> Var<'g> {
        let (g, b, w) = (ids.graph(), ids.dim(0), self.config.segment);
        let n = ids.dim(1).saturating_sub(1);
        if n == 0 || !n.is_multiple_of(w) {
            let message = format!("expected ids u32 [batch, n + 1], n a multiple of segment {w}, got {}", ids.ty());
            refuse(g, "MemoryTransformer::segment_loss", message);
        }
        let old = self.carried(g, b, begin);
        let (loss, new) = self.loss_after(p, ids, &old);
        self.keep(g, &old, &new);
        loss
    }
}
