//! The four originals with the options of originals.py.

use anyhow::Result;
use wgrad::models::conditional::{BlockConfig, ConditionalRoutedTransformerBlock};
use wgrad::models::product_key::{PkmTransformer, PkmTransformerConfig, ProductKeyConfig};
use wgrad::models::recurrent::Carried;
use wgrad::models::{BlockRecurrentConfig, BlockRecurrentTransformer, InfiniConfig, InfiniTransformer};
use wgrad::nn::{ParamVars, Params};
use wgrad::{Mode, Var};

pub type Run = dyn for<'g> Fn(&ParamVars<'g>, Var<'g>) -> Var<'g>;

/// One of them: its parameters, and how outputs come from inputs.
pub struct Original {
    pub name: &'static str,
    pub params: Params,
    pub run: Box<Run>,
    /// Whether it reads tokens and gives logits; else features.
    pub tokens: bool,
}

pub fn originals() -> Result<Vec<Original>> {
    let infini = InfiniTransformer::new(InfiniConfig { heads: 2, dim_head: 32, ..InfiniConfig::new(256, 64, 2) })?;
    let memory = ProductKeyConfig { heads: 2, num_keys: 16, topk: 8, dim_head: 16, ..ProductKeyConfig::new(64) };
    let pkm = PkmTransformerConfig {
        heads: 2,
        dim_head: 32,
        pkm_layers: vec![2],
        ..PkmTransformerConfig::new(256, 2, 32, memory)
    };
    let pkm = PkmTransformer::new(pkm)?;
    let recurrent = BlockRecurrentTransformer::new(BlockRecurrentConfig {
        heads: 2,
        dim_head: 32,
        block_width: 16,
        max_seq_len: 32,
        num_state_vectors: Some(16),
        ..BlockRecurrentConfig::new(256, 64, 2)
    })?;
    let mut config = BlockConfig::new(64, 32, 32, 32).reference();
    let a = &mut config.attention;
    (a.light_dim_head, a.light_heads, a.light_window_size) = (32, 2, 8);
    (a.heavy_dim_head, a.heavy_heads) = (32, 2);
    let mut colt5_params = Params::new(0);
    let colt5 = ConditionalRoutedTransformerBlock::new(&mut colt5_params, "", config)?;
    Ok(vec![
        Original {
            name: "infini",
            params: infini.init(0),
            run: Box::new(move |p, ids| infini.forward(p, ids, None, false, Mode::Eval, 0).0),
            tokens: true,
        },
        Original {
            name: "pkm",
            params: pkm.init(0),
            run: Box::new(move |p, ids| pkm.forward(p, ids, Mode::Eval)),
            tokens: true,
        },
        Original {
            name: "recurrent",
            params: recurrent.init(0),
            run: Box::new(move |p, ids| recurrent.forward(p, ids, &Carried::default()).0),
            tokens: true,
        },
        Original {
            name: "colt5",
            params: colt5_params,
            run: Box::new(move |p, x| colt5.forward(p, x, &colt5.route())),
            tokens: false,
        },
    ])
}
