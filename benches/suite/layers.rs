//! Layers of the four papers at the sizes of their README files: forward, and forward with all gradients.

use crate::work::{Case, Make, Scene, graph};
use wgrad::graph::Mode;
use wgrad::models::conditional::{
    BlockConfig, ConditionalRoutedCrossAttention, ConditionalRoutedTransformerBlock, CoordinateDescentRouterConfig,
    CrossAttentionConfig,
};
use wgrad::models::infini::{InfiniConfig, InfiniTransformer, Memory};
use wgrad::models::product_key::{Lookup, ProductKeyConfig, ProductKeyMemory};
use wgrad::models::recurrent::{BlockRecurrentConfig, BlockRecurrentTransformer, Carried};
use wgrad::nn::{ParamVars, Params};
use wgrad::ops::route::soft_top_k::DifferentiableTopK;
use wgrad::{Result, Var};

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for grad in [false, true] {
        all.push(product_key(1024, false, grad));
    }
    all.push(product_key(1024, true, true));
    for (n, grad) in [(4096, false), (4096, true), (32_768, false), (32_768, true)] {
        let case = colt5_block(n, 1024, grad);
        all.push(if n > 4096 { case.large() } else { case });
    }
    all.extend([false, true].map(|grad| cross_attention(1024, 65_536, grad).large()));
    for grad in [false, true] {
        all.push(infini(512, grad));
        all.push(recurrent(1024, grad));
    }
    all
}

/// A case of a model that can be built once; an error shows when it is measured.
fn modelled<M: 'static>(
    model: Result<(M, Params)>,
    build: impl for<'g> Fn(&Scene<'g>, &M, &ParamVars<'g>) -> Vec<Var<'g>> + 'static,
) -> Make {
    match model {
        Ok((model, params)) => graph(move |s| build(s, &model, &s.params(&params))),
        Err(error) => Box::new(move |_| Err(error.clone())),
    }
}

/// The layer of the README: 256² values of 512, four heads that read 32 of them.
pub fn product_key_config(differentiable: bool) -> ProductKeyConfig {
    let differentiable_topk = differentiable.then(DifferentiableTopK::default);
    ProductKeyConfig { num_keys: 256, topk: 32, dim_head: 128, differentiable_topk, ..ProductKeyConfig::new(512) }
}

fn product_key(tokens: usize, differentiable: bool, grad: bool) -> Case {
    let config = product_key_config(differentiable);
    let mut params = Params::new(1);
    let model = ProductKeyMemory::new(&mut params, "", config.clone()).map(|m| (m, params));
    let build = modelled(model, move |s, model, p| {
        let x = s.floats([1, tokens, 512]);
        let y = model.forward(p, x, &Lookup::new(Mode::Train, 0));
        if grad { s.backward_all(p, y, &[x]) } else { vec![y] }
    });
    let op = match (differentiable, grad) {
        (false, false) => "product_key",
        (false, true) => "product_key_grad",
        (true, false) => "product_key_soft",
        (true, true) => "product_key_soft_grad",
    };
    let (reads, queries) = (tokens * config.heads * config.topk, 2 * config.heads * config.dim_head);
    // Values read, queries projected and compared; three times that, and the dense gradient of the table, backward.
    let elements = reads * 512 + 2 * tokens * (512 + queries);
    let flops = 2 * tokens * (512 * queries + queries * config.num_keys) + 2 * reads * 512;
    match grad {
        true => Case::new(op, &[tokens, 512], build).counts(2 * elements + config.slots() * 512, 3 * flops),
        false => Case::new(op, &[tokens, 512], build).counts(elements, flops),
    }
}

/// Light and heavy branches of the package's defaults, `k` heavy tokens everywhere.
fn colt5_block(n: usize, k: usize, grad: bool) -> Case {
    let mut params = Params::new(1);
    let model = ConditionalRoutedTransformerBlock::new(&mut params, "", BlockConfig::new(512, k, k, k).reference());
    let build = modelled(model.map(|m| (m, params)), move |s, model, p| {
        let x = s.floats([1, n, 512]);
        let y = model.forward(p, x, &model.route());
        if grad { s.backward_all(p, y, &[x]) } else { vec![y] }
    });
    Case::new(if grad { "colt5_block_grad" } else { "colt5_block" }, &[n, 512, k], build)
}

/// 1,024 queries of which 512 are routed, to memories of which two routes pick 1,024 each.
fn cross_attention(queries: usize, memories: usize, grad: bool) -> Case {
    let mut params = Params::new(1);
    let router = CoordinateDescentRouterConfig::reference().into();
    let config = CrossAttentionConfig { kv_routing_tokens: 2, router, ..CrossAttentionConfig::new(512, 512, 1024) };
    let model = ConditionalRoutedCrossAttention::new(&mut params, "", config).map(|m| (m, params));
    let build = modelled(model, move |s, model, p| {
        let x = s.floats([1, queries, 512]);
        let y = model.forward(p, x, s.floats([1, memories, 512]), &model.route());
        if grad { s.backward_all(p, y, &[x]) } else { vec![y] }
    });
    Case::new(if grad { "cross_attention_grad" } else { "cross_attention" }, &[queries, memories, 512], build)
}

pub fn infini_config() -> InfiniConfig {
    InfiniConfig { use_mem_delta_rule: true, ..InfiniConfig::new(256, 512, 8) }
}

/// A segment with the memories of one before it.
fn infini(n: usize, grad: bool) -> Case {
    let model = InfiniTransformer::new(infini_config()).map(|m| {
        let params = m.init(1);
        (m, params)
    });
    let build = modelled(model, move |s, model, p| {
        let c = model.config();
        let past: Vec<Memory<'_>> = (0..c.depth)
            .map(|_| Memory {
                kv: s.floats([1, c.heads, c.dim_head, c.dim_head]),
                norm: s.floats([1, c.heads, c.dim_head]).abs() + 1.0,
            })
            .collect();
        let ids = s.indices([1, n], c.num_tokens);
        let (logits, memories) = model.forward(p, ids, Some(&past), true, Mode::Train, 0);
        let mut all = if grad { s.backward_all(p, logits, &[]) } else { vec![logits] };
        all.extend(memories.iter().flatten().flat_map(|m| [m.kv, m.norm]));
        all
    });
    Case::new(if grad { "infini_grad" } else { "infini" }, &[n, 512, 8], build)
}

pub fn recurrent_config() -> BlockRecurrentConfig {
    BlockRecurrentConfig::new(20_000, 512, 6)
}

fn recurrent(n: usize, grad: bool) -> Case {
    let model = BlockRecurrentTransformer::new(recurrent_config()).map(|m| {
        let params = m.init(1);
        (m, params)
    });
    let build = modelled(model, move |s, model, p| {
        let ids = s.indices([1, n + 1], model.config().num_tokens);
        let (loss, _) = model.loss(p, ids, &Carried::default());
        if grad { s.backward_all(p, loss, &[]) } else { vec![loss] }
    });
    Case::new(if grad { "recurrent_grad" } else { "recurrent" }, &[n, 512, 6], build)
}
