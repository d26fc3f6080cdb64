//! All four systems in one model, each alone, and none, with the same number of parameters.

use super::recall::{Model, TOKENS};
use wgrad::models::mix::{AttentionKind, FeedForwardKind, LayerConfig, MemoryConfig, MemoryTransformer};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::Group;
use wgrad::{Result, Var};

/// Tokens of a segment and of a text.
pub const SEGMENT: usize = 16;
pub const LENGTH: usize = 128;

impl Model for MemoryTransformer {
    fn init(&self, seed: u64) -> Params {
        MemoryTransformer::init(self, seed)
    }

    fn groups(&self, rate: f64) -> Vec<(&'static str, Group)> {
        MemoryTransformer::groups(self, rate, rate)
    }

    fn logits<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.forward(p, ids, &self.fresh(ids.graph(), ids.dim(0))).0
    }
}

fn model(layers: &[(AttentionKind, FeedForwardKind)], ff_mult: f64) -> Result<MemoryTransformer> {
    let layer = |(attention, feed_forward): &(AttentionKind, FeedForwardKind)| LayerConfig {
        attention: attention.clone(),
        feed_forward: feed_forward.clone(),
        long_memory: None,
    };
    MemoryTransformer::new(MemoryConfig {
        num_tokens: TOKENS,
        dim: 32,
        segment: SEGMENT,
        heads: 2,
        dim_head: None,
        ff_mult,
        recompute: false,
        layers: layers.iter().map(layer).collect(),
    })
}

/// The model whose feed-forwards are so wide that it has nearest to so many parameters.
fn sized(layers: &[(AttentionKind, FeedForwardKind)], parameters: usize) -> Result<MemoryTransformer> {
    let mut best = model(layers, 1.0)?;
    for mult in (2..120).map(|i| f64::from(i) / 4.0) {
        let other = model(layers, mult)?;
        let off = |m: &MemoryTransformer| m.init(0).numel().abs_diff(parameters);
        best = if off(&other) < off(&best) { other } else { best };
    }
    Ok(best)
}

/// The models and their names, all of one size.
pub fn arms() -> Result<Vec<(&'static str, MemoryTransformer)>> {
    let window = || AttentionKind::Full { context: SEGMENT };
    let infini = || AttentionKind::Infini { delta_rule: false, head_gate: 0.0 };
    let recurrent = || AttentionKind::Recurrent { states: None, gate: Default::default(), gates: Default::default() };
    let routed = || AttentionKind::Routed { memories: LENGTH, selected: None, heavy_queries: None, window: None };
    let dense = || FeedForwardKind::Dense;
    let keys = || FeedForwardKind::ProductKey { num_keys: 32, topk: Some(8), heads: 2 };
    let heavy = || FeedForwardKind::Routed { heavy_tokens: SEGMENT / 2, light_mult: 0.5 };
    let arms = [
        ("all four", vec![(infini(), dense()), (recurrent(), keys()), (routed(), heavy())]),
        ("Infini-attention", vec![(infini(), dense()), (infini(), dense()), (infini(), dense())]),
        ("recurrence", vec![(recurrent(), dense()), (recurrent(), dense()), (recurrent(), dense())]),
        ("routing", vec![(routed(), heavy()), (routed(), heavy()), (routed(), heavy())]),
        ("product keys", vec![(window(), dense()), (window(), keys()), (window(), dense())]),
        ("none: a window", vec![(window(), dense()), (window(), dense()), (window(), dense())]),
    ];
    let target = model(&arms[0].1, 2.0)?.init(0).numel();
    arms.into_iter().map(|(name, layers)| Ok((name, sized(&layers, target)?))).collect()
}
