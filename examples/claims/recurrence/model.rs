//! The models: the memory of the last block alone, recurrent states, a routed memory.

use super::recall::{Model, TOKENS};
use wgrad::models::long_memory::{Lookback, RoutedMemoryConfig};
use wgrad::models::recurrent::{BlockRecurrentConfig, BlockRecurrentTransformer, Carried, LongMemoryLayers};
use wgrad::nn::{ParamVars, Params};
use wgrad::{Result, Var};

/// Tokens of a block and of a text; features.
const BLOCK: usize = 16;
pub const LENGTH: usize = 128;
const DIM: usize = 32;

impl Model for BlockRecurrentTransformer {
    fn init(&self, seed: u64) -> Params {
        BlockRecurrentTransformer::init(self, seed)
    }

    fn logits<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.forward_attached(p, ids, &Carried::default()).0
    }
}

pub fn model(states: bool, routed: bool) -> Result<BlockRecurrentTransformer> {
    let memory = RoutedMemoryConfig {
        heads: 2,
        dim_head: 16,
        lookback: Some(Lookback { latest: BLOCK, heads: 2, dim_head: 16 }),
        ..RoutedMemoryConfig::new(DIM, LENGTH, 2 * BLOCK)
    };
    BlockRecurrentTransformer::new(BlockRecurrentConfig {
        heads: 2,
        dim_head: 16,
        ff_mult: 2.0,
        block_width: BLOCK,
        max_seq_len: LENGTH,
        recurrent_layers: Some(if states { vec![1] } else { vec![] }),
        long_memory: routed.then_some(LongMemoryLayers { layers: vec![1], memory }),
        ..BlockRecurrentConfig::new(TOKENS, DIM, 2)
    })
}
