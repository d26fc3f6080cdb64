//! A language model of CoLT5's attention for decoders.

use super::autoregressive::{AutoregressiveConfig, ConditionalRoutedAutoregressiveAttention};
use super::feed_forward::FeedForward;
use super::rows::within;
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::models::parts::depth_within;
use crate::nn::{Embedding, Init, Linear, ParamVars, Params};

/// Options of a [`RoutedDecoder`].
#[derive(Clone, Debug)]
pub struct RoutedDecoderConfig {
    /// Vocabulary.
    pub num_tokens: usize,
    /// Layers.
    pub depth: usize,
    /// Attention of every layer; its `dim` is that of the model.
    pub attention: AutoregressiveConfig,
    /// Inner features of the feed-forward, in multiples of `dim`.
    pub ff_mult: f64,
    /// Recompute each layer's values in the backward pass instead of keeping them.
    pub recompute: bool,
}

impl RoutedDecoderConfig {
    /// A strictly causal decoder: windows of `window` tokens whose queries all take part in the heavy branch, with
    /// `num_heavy_tokens_kv` routed keys and values of all windows before, and rotary positions. (Fewer queries than a
    /// window has are chosen by looking at all of it: [`AttentionConfig::num_heavy_tokens_q`](super::AttentionConfig).)
    pub fn new(
        num_tokens: usize,
        dim: usize,
        depth: usize,
        heads: usize,
        window: usize,
        num_heavy_tokens_kv: usize,
    ) -> Self {
        let mut attention = AutoregressiveConfig::new(dim, window, num_heavy_tokens_kv);
        let a = &mut attention.attention;
        let dim_head = dim / heads.max(1);
        (a.light_window_size, a.light_heads, a.light_dim_head) = (window, heads, dim_head);
        (a.heavy_heads, a.heavy_dim_head, a.rotary_emb) = (heads, dim_head, true);
        RoutedDecoderConfig { num_tokens, depth, attention, ff_mult: 4.0, recompute: false }
    }

    /// Features of a token.
    pub fn dim(&self) -> usize {
        self.attention.attention.dim
    }

    /// Refuses values no model can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let inner = (self.dim() as f64 * self.ff_mult) as usize;
        for (what, value) in [("num_tokens", self.num_tokens), ("depth", self.depth), ("ff_mult", inner)] {
            if value == 0 {
                return Err(Error::argument(format!("RoutedDecoderConfig::{what}"), "gives 0; expected at least 1"));
            }
        }
        depth_within("RoutedDecoderConfig", self.depth)?;
        let a = &self.attention.attention;
        within("RoutedDecoderConfig: pos_emb.weight", &[2, a.light_window_size, a.dim])?;
        within("RoutedDecoderConfig: token_emb.weight", &[self.num_tokens, a.dim])?;
        within("RoutedDecoderConfig: the feed-forward", &[inner, a.dim])?;
        self.attention.check()
    }
}

/// A decoder: embedding, layers of [`ConditionalRoutedAutoregressiveAttention`] and feed-forward, logits. The local attention
/// has no positions of its own, so each token's place within two of its windows, all that it sees, is embedded.
///
/// Parameters: `token_emb.weight` `[num_tokens, D]`, `pos_emb.weight` `[2 window, D]`, `layers.{i}.0.*` (attention),
/// `layers.{i}.1.*` (feed-forward: `0.gamma`, `1.*`, `3.*`), `norm.gamma`, `to_logits.weight`, `to_logits.bias`.
#[derive(Clone, Debug)]
pub struct RoutedDecoder {
    config: RoutedDecoderConfig,
    params: Params,
    tokens: Embedding,
    positions: Embedding,
    pub(super) layers: Vec<(ConditionalRoutedAutoregressiveAttention, FeedForward)>,
    to_logits: Linear,
}

const GAMMA: &str = "norm.gamma";

impl RoutedDecoder {
    /// A model.
    ///
    /// # Errors
    /// As [`RoutedDecoderConfig::check`].
    pub fn new(config: RoutedDecoderConfig) -> Result<Self> {
        config.check()?;
        let (dim, mut params) = (config.dim(), Params::new(0));
        let tokens = Embedding::new(&mut params, "token_emb", config.num_tokens, dim);
        let positions = Embedding::new(&mut params, "pos_emb", 2 * config.attention.attention.light_window_size, dim);
        let mut layers = Vec::new();
        for i in 0..config.depth {
            let attention = config.attention.clone();
            let attention =
                ConditionalRoutedAutoregressiveAttention::new(&mut params, &format!("layers.{i}.0"), attention)?;
            layers.push((attention, FeedForward::new(&mut params, &format!("layers.{i}.1"), dim, config.ff_mult)));
        }
        params.add(GAMMA, [dim], Init::Ones);
        let to_logits = Linear::new(&mut params, "to_logits", dim, config.num_tokens, true);
        Ok(RoutedDecoder { config, params, tokens, positions, layers, to_logits })
    }

    /// Fresh parameters: embeddings, routing and null tokens N(0, 1), linear maps uniform within 1/sqrt(inputs), gains 1.
    pub fn init(&self, seed: u64) -> Params {
        self.params.clone().with_seed(seed)
    }

    /// The options.
    pub fn config(&self) -> &RoutedDecoderConfig {
        &self.config
    }

    /// Features of ids u32 `[b, n]` that stand at `positions` (u32, broadcast with them).
    #[track_caller]
    pub(super) fn embed<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>, positions: Var<'g>) -> Var<'g> {
        let places = 2 * self.config.attention.attention.light_window_size as u32;
        self.tokens.forward(p, ids) + self.positions.forward(p, positions.rem(places))
    }

    /// Logits `[.., num_tokens]` of features `[.., D]`.
    #[track_caller]
    pub(super) fn logits<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        self.to_logits.forward(p, x.rms_norm(p.get(GAMMA)))
    }

    /// Logits `[b, n, num_tokens]` of ids u32 `[b, n]`.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        let g = ids.graph();
        let mut x = self.embed(p, ids, g.iota([ids.dim(1)], 0));
        for i in 0..self.layers.len() {
            let step = || self.layer(p, i, x);
            x = if self.config.recompute { g.recompute(step) } else { step() };
        }
        self.logits(p, x)
    }

    /// Layer `i` of features `[b, n, D]`.
    #[track_caller]
    fn layer<'g>(&self, p: &ParamVars<'g>, i: usize, x: Var<'g>) -> Var<'g> {
        let (attention, feed_forward) = &self.layers[i];
        let route = super::AutoregressiveRoute { site: 2 * i as u32, ..attention.route() };
        let y = x + attention.forward(p, x, &route);
        y + feed_forward.forward(p, y)
    }

    /// Scores f32 `[b, n]` of ids u32 `[b, n]` by which the router of each layer chooses keys, before they are made soft.
    #[track_caller]
    pub fn router_scores<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Vec<Var<'g>> {
        let mut x = self.embed(p, ids, ids.graph().iota([ids.dim(1)], 0));
        let mut all = Vec::new();
        for (i, (attention, _)) in self.layers.iter().enumerate() {
            all.push(attention.kv_router.scores(p, x, &super::Route::new(1)).select_index(1, 0));
            x = self.layer(p, i, x);
        }
        all
    }

    /// Mean cross entropy of the next token over ids u32 `[b, n + 1]`; labels of `u32::MAX` do not count.
    #[track_caller]
    pub fn loss<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        let (b, n) = (ids.dim(0), ids.dim(1).saturating_sub(1));
        let logits = self.forward(p, ids.slice(1, 0, n));
        let labels = ids.slice(1, 1.min(ids.dim(1)), n).reshape([b * n]);
        logits.reshape([b * n, self.config.num_tokens]).cross_entropy_mean(labels, None)
    }
}
