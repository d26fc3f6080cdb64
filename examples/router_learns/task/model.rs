//! A small routed model.

use super::Routing;
use super::batch::{ANSWERS, BATCH, LENGTH, NONE, WORDS};
use wgrad::models::conditional::{
    BlockConfig, BlockRoute, ConditionalRoutedTransformerBlock, CoordinateDescentRouterConfig,
};
use wgrad::nn::{Embedding, Linear, ParamVars, Params};
use wgrad::{Result, TensorType, Var};

/// Features of a token.
const DIM: usize = 32;
/// One routed block between an embedding and a linear map to answers.
pub struct Model {
    kinds: Embedding,
    votes: Embedding,
    words: Embedding,
    pub block: ConditionalRoutedTransformerBlock,
    head: Linear,
    routing: Routing,
    pub heavy: usize,
}

impl Model {
    pub fn new(params: &mut Params, routing: Routing, heavy: usize) -> Result<Model> {
        let mut config = BlockConfig::new(DIM, heavy, heavy, heavy);
        if routing == Routing::Published {
            config = config.router(CoordinateDescentRouterConfig::reference());
        }
        let attention = &mut config.attention;
        (attention.light_heads, attention.light_dim_head, attention.light_window_size) = (2, 16, 16);
        (attention.heavy_heads, attention.heavy_dim_head) = (2, 16);
        Ok(Model {
            kinds: Embedding::new(params, "kinds", 3, DIM),
            votes: Embedding::new(params, "votes", ANSWERS as usize, DIM),
            words: Embedding::new(params, "words", WORDS as usize, DIM),
            block: ConditionalRoutedTransformerBlock::new(params, "block", config)?,
            head: Linear::new(params, "head", DIM, ANSWERS as usize, true),
            routing,
            heavy,
        })
    }

    pub fn route<'g>(&self) -> BlockRoute<'g> {
        let mut route = self.block.route();
        let random = self.routing == Routing::Random;
        (route.attention.random_route, route.feed_forward.random_route) = (random, random);
        route
    }

    pub fn embed<'g>(&self, p: &ParamVars<'g>) -> Var<'g> {
        let ids = |name| p.graph().input(name, TensorType::u32([BATCH, LENGTH]));
        self.kinds.forward(p, ids("kinds")) + self.votes.forward(p, ids("votes")) + self.words.forward(p, ids("words"))
    }

    pub fn loss<'g>(&self, p: &ParamVars<'g>) -> Var<'g> {
        let out = self.block.forward(p, self.embed(p), &self.route());
        let logits = self.head.forward(p, out.layer_norm(None, None, 1e-5));
        let labels = p.graph().input("labels", TensorType::u32([BATCH, LENGTH]));
        logits.cross_entropy_mean(labels, Some(i64::from(NONE)))
    }
}
