//! The model.

use wgrad::models::conditional::{BlockConfig, ConditionalRoutedTransformerBlock, Router};
use wgrad::nn::{Embedding, Linear, LocalAttention, LocalAttentionConfig, ParamVars, Params};
use wgrad::{Result, Var};

/// Features of a byte.
const DIM: usize = 64;
/// Of so many bytes one goes to a heavy branch.
pub const ONE_IN: usize = 6;
/// Bytes that a byte of the light branch sees.
const WINDOW: usize = 16;

/// Embedding, a local layer that shows each byte its neighbours, a routed block, logits of 256 bytes.
pub struct Model {
    params: Params,
    tokens: Embedding,
    places: Embedding,
    local: LocalAttention,
    block: ConditionalRoutedTransformerBlock,
    to_logits: Linear,
}

impl Model {
    pub fn new() -> Result<Self> {
        let mut params = Params::new(0);
        let tokens = Embedding::new(&mut params, "token_emb", 257, DIM);
        let places = Embedding::new(&mut params, "pos_emb", 2 * WINDOW, DIM);
        let local = LocalAttentionConfig { heads: 4, dim_head: 16, ..LocalAttentionConfig::new(DIM, WINDOW / 2) };
        let local = LocalAttention::new(&mut params, "local", local);
        // Numbers of heavy tokens are given with each call: they grow with the text.
        let mut config = BlockConfig::new(DIM, 1, 1, 1);
        let a = &mut config.attention;
        (a.light_heads, a.light_dim_head, a.light_window_size) = (4, 16, WINDOW);
        (a.heavy_heads, a.heavy_dim_head, a.rotary_emb) = (4, 16, true);
        let block = ConditionalRoutedTransformerBlock::new(&mut params, "block", config)?;
        let to_logits = Linear::new(&mut params, "to_logits", DIM, 256, true);
        Ok(Model { params, tokens, places, local, block, to_logits })
    }

    pub fn params(&self, seed: u64) -> Params {
        self.params.clone().with_seed(seed)
    }

    /// What enters the block, `[b, n, D]`.
    fn features<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        let places = ids.graph().iota([ids.dim(1)], 0).rem(2 * WINDOW as u32);
        let x = self.tokens.forward(p, ids) + self.places.forward(p, places);
        x + self.local.forward(p, x, None)
    }

    /// Logits `[b, n, 256]` of the bytes at masked places.
    pub fn logits<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        let x = self.features(p, ids);
        let k = ids.dim(1) / ONE_IN;
        let mut route = self.block.route();
        (route.attention.num_heavy_tokens_q, route.attention.num_heavy_tokens_kv) = (k, k);
        route.feed_forward.num_tokens = k;
        self.to_logits.forward(p, self.block.forward(p, x, &route))
    }

    /// The three routers of the block with what they look at, for ids `[1, n]`.
    pub fn routers<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> [(&'static str, &Router, Var<'g>); 3] {
        let x = self.features(p, ids);
        let k = ids.dim(1) / ONE_IN;
        let mut route = self.block.attention.route();
        (route.num_heavy_tokens_q, route.num_heavy_tokens_kv) = (k, k);
        let after = self.block.attention.forward(p, x, &route) + x;
        [
            ("queries of attention", self.block.attention.q_router(), x),
            ("keys and values of attention", self.block.attention.kv_router(), x),
            ("feed-forward", self.block.feed_forward.router(), after),
        ]
    }
}
