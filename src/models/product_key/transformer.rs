//! A small language model with product-key memories in place of some feed-forwards.

use super::config::ProductKeyConfig;
use super::layer::ProductKeyMemory;
use super::lookup::{Lookup, Recall};
use super::norm::{declare_norm, layer_norm};
use crate::error::{Error, Result};
use crate::graph::{Mode, Var};
use crate::models::parts::{below, depth_within, refuse, within};
use crate::nn::{Embedding, Linear, ParamVars, Params};
use crate::ops::attention::Attention;
use crate::ops::select::Sampling;

/// Options of a [`PkmTransformer`]; defaults are those of `product_key_memory.transformer` of version 0.3.0.
#[derive(Clone, Debug, PartialEq)]
pub struct PkmTransformerConfig {
    /// Vocabulary.
    pub num_tokens: usize,
    /// Layers.
    pub depth: usize,
    /// Tokens that the model looks back at, itself included: learned positions.
    pub seq_len: usize,
    /// Numbers of the layers, counted from 1, whose feed-forward is a memory.
    pub pkm_layers: Vec<usize>,
    /// Features of a head of attention.
    pub dim_head: usize,
    /// Heads of attention.
    pub heads: usize,
    /// The memories; `dim` is that of the model.
    pub memory: ProductKeyConfig,
    /// Recompute each layer's values in the backward pass instead of keeping them. Not with batch norm in memories.
    pub recompute: bool,
}

impl PkmTransformerConfig {
    /// A memory in layer `depth / 2`, attention of 8 heads of 64 features.
    pub fn new(num_tokens: usize, depth: usize, seq_len: usize, memory: ProductKeyConfig) -> Self {
        let pkm_layers = vec![depth / 2];
        PkmTransformerConfig {
            num_tokens,
            depth,
            seq_len,
            pkm_layers,
            dim_head: 64,
            heads: 8,
            memory,
            recompute: false,
        }
    }

    /// Features of a token.
    pub fn dim(&self) -> usize {
        self.memory.dim
    }

    /// Refuses values no model can have. A number in `pkm_layers` that names no layer (0, with the default for depth 1) is
    /// ignored, as in the package.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        for (what, value) in [
            ("num_tokens", self.num_tokens),
            ("depth", self.depth),
            ("seq_len", self.seq_len),
            ("dim_head", self.dim_head),
            ("heads", self.heads),
        ] {
            if value == 0 {
                let message = "is 0; expected at least 1";
                return Err(Error::argument(format!("PkmTransformerConfig::{what}"), message));
            }
        }
        if self.recompute && !self.memory.use_layernorm {
            let message = "batch norm keeps statistics once a forward pass; set use_layernorm, or do not recompute";
            return Err(Error::argument("PkmTransformerConfig::recompute", message));
        }
        self.memory.check()?;
        depth_within("PkmTransformerConfig", self.depth)?;
        let dim = self.dim();
        within("PkmTransformerConfig: to_qkv.weight", &[3, self.heads, self.dim_head, dim])?;
        within("PkmTransformerConfig: the feed-forward", &[4, dim, dim])?;
        within("PkmTransformerConfig: token_emb.weight", &[self.num_tokens, dim])?;
        within("PkmTransformerConfig: pos_emb.weight", &[self.seq_len, dim])
    }
}

/// What of the package's filter `filter_thres` leaves: the `int((1 - thres) num_tokens)` likeliest tokens, at least one.
pub fn filter_thres(num_tokens: usize, thres: f64, temperature: f32) -> Sampling {
    let k = ((1.0 - thres) * num_tokens as f64) as usize;
    Sampling { temperature, top_k: Some(k.max(1)), top_p: None }
}

/// What stands after attention in a layer.
#[derive(Clone, Debug)]
enum Inner {
    /// `1.{0,1,3}.*`: LayerNorm, linear, GELU, linear.
    FeedForward {
        norm: String,
        proj_in: Linear,
        proj_out: Linear,
    },
    Memory(ProductKeyMemory),
}

#[derive(Clone, Debug)]
struct Layer {
    to_qkv: Linear,
    to_out: Linear,
    inner: Inner,
}

/// A causal transformer whose attention has no norm before it, with memories in place of some feed-forwards. Parameters:
/// `token_emb.weight` `[num_tokens, D]`, `pos_emb.weight` `[seq_len, D]`, `layers.{i}.0.to_qkv.weight`,
/// `layers.{i}.0.to_out.weight`, `layers.{i}.1.{0,1,3}.*` or those of a [`ProductKeyMemory`] below `layers.{i}.1`,
/// `to_logits.0.*` (LayerNorm), `to_logits.1.*`.
#[derive(Clone, Debug)]
pub struct PkmTransformer {
    config: PkmTransformerConfig,
    params: Params,
    tokens: Embedding,
    positions: Embedding,
    layers: Vec<Layer>,
    to_logits: Linear,
}

const NORM: &str = "to_logits.0";
/// Sites of random numbers a layer has.
const SITES: u32 = 8;

impl PkmTransformer {
    /// A model.
    ///
    /// # Errors
    /// As [`PkmTransformerConfig::check`].
    pub fn new(config: PkmTransformerConfig) -> Result<Self> {
        config.check()?;
        let (dim, inner) = (config.dim(), config.heads * config.dim_head);
        let params = &mut Params::new(0);
        let tokens = Embedding::new(params, "token_emb", config.num_tokens, dim);
        let positions = Embedding::new(params, "pos_emb", config.seq_len, dim);
        let mut layers = Vec::with_capacity(config.depth);
        for i in 0..config.depth {
            let part = |what: &str| format!("layers.{i}.{what}");
            let to_qkv = Linear::new(params, &part("0.to_qkv"), dim, 3 * inner, false);
            let to_out = Linear::new(params, &part("0.to_out"), inner, dim, false);
            let inner = if config.pkm_layers.contains(&(i + 1)) {
                Inner::Memory(ProductKeyMemory::new(params, &part("1"), config.memory.clone())?)
            } else {
                declare_norm(params, &part("1.0"), dim);
                let proj_in = Linear::new(params, &part("1.1"), dim, 4 * dim, true);
                let proj_out = Linear::new(params, &part("1.3"), 4 * dim, dim, true);
                Inner::FeedForward { norm: part("1.0"), proj_in, proj_out }
            };
            layers.push(Layer { to_qkv, to_out, inner });
        }
        declare_norm(params, NORM, dim);
        let to_logits = Linear::new(params, &below("to_logits", "1"), dim, config.num_tokens, true);
        let params = params.clone();
        Ok(PkmTransformer { config, params, tokens, positions, layers, to_logits })
    }

    /// Fresh parameters: embeddings N(0, 1), linear maps uniform within 1/√inputs, gains 1, memories by their own rule.
    pub fn init(&self, seed: u64) -> Params {
        self.params.clone().with_seed(seed)
    }

    /// The options.
    pub fn config(&self) -> &PkmTransformerConfig {
        &self.config
    }

    /// Numbers of the layers, counted from 0, with a memory, and the memories.
    pub fn memories(&self) -> impl Iterator<Item = (usize, &ProductKeyMemory)> {
        self.layers.iter().enumerate().filter_map(|(i, layer)| match &layer.inner {
            Inner::Memory(memory) => Some((i, memory)),
            Inner::FeedForward { .. } => None,
        })
    }

    /// Features `[b, n, D]` of ids u32 `[b, n]`, n at most `seq_len`, and what each memory read. `lookup` goes to the
    /// memories, each with sites of its own from `lookup.site` on.
    #[track_caller]
    pub fn features<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, lookup: &Lookup<'g>) -> (Var<'g>, Vec<Recall<'g>>) {
        let (g, n) = (ids.graph(), ids.dim(1));
        if n > self.config.seq_len {
            let message = format!("{n} tokens, more than seq_len {}; cut the text", self.config.seq_len);
            refuse(g, "PkmTransformer: ids", message);
        }
        let mut x = self.tokens.forward(p, ids) + self.positions.forward(p, g.iota([n], 0));
        let mut recalls = Vec::new();
        for (layer, site) in self.layers.iter().zip((lookup.site..).step_by(SITES as usize)) {
            let step = || {
                let y = x + self.attend(p, layer, x);
                match &layer.inner {
                    Inner::FeedForward { norm, proj_in, proj_out } => {
                        let hidden = proj_in.forward(p, layer_norm(p, norm, y)).gelu();
                        (y + proj_out.forward(p, hidden), None)
                    }
                    Inner::Memory(memory) => {
                        let recall = memory.recall(p, y, &Lookup { site, ..*lookup });
                        (y + recall.out, Some(recall))
                    }
                }
            };
            let (y, recall) = if self.config.recompute { g.recompute(step) } else { step() };
            x = y;
            recalls.extend(recall);
        }
        (x, recalls)
    }

    /// Causal attention of `x` `[b, n, D]`, without a norm before it.
    fn attend<'g>(&self, p: &ParamVars<'g>, layer: &Layer, x: Var<'g>) -> Var<'g> {
        let (b, n, h, d) = (x.dim(0), x.dim(1), self.config.heads, self.config.dim_head);
        let qkv = layer.to_qkv.forward(p, x).reshape([b, n, 3, h, d]);
        let [q, k, v] = [0, 1, 2].map(|i| qkv.select_index(2, i).permute(&[0, 2, 1, 3]));
        let out = q.attention(k, v, &Attention { causal: true, ..Default::default() }).out;
        layer.to_out.forward(p, out.permute(&[0, 2, 1, 3]).reshape([b, n, h * d]))
    }

    /// Logits `[.., num_tokens]` of features `[.., D]`.
    #[track_caller]
    pub fn logits<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        self.to_logits.forward(p, layer_norm(p, NORM, x))
    }

    /// Logits `[b, n, num_tokens]` of ids u32 `[b, n]`.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, mode: Mode) -> Var<'g> {
        self.logits(p, self.features(p, ids, &Lookup::new(mode, 0)).0)
    }

    /// Mean cross entropy of the next token over ids u32 `[b, n + 1]`, and what each memory read. Labels of `u32::MAX` do
    /// not count.
    #[track_caller]
    pub fn loss<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, lookup: &Lookup<'g>) -> (Var<'g>, Vec<Recall<'g>>) {
        let (b, n) = (ids.dim(0), ids.dim(1).saturating_sub(1));
        let (x, recalls) = self.features(p, ids.slice(1, 0, n), lookup);
        let labels = ids.slice(1, 1.min(ids.dim(1)), n).reshape([b * n]);
        let logits = self.logits(p, x).reshape([b * n, self.config.num_tokens]);
        (logits.cross_entropy_mean(labels, None), recalls)
    }
}
