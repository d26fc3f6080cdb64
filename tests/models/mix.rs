//! Decoders of one description: every kind alone, and all together.
//!
//! One file a subject, on the same small models.

pub mod faults;
pub mod gradients;
pub mod segments;
pub mod stream;
pub mod training;

use wgrad::models::mix::{MemoryConfig, MemoryTransformer};
use wgrad::nn::Params;
use wgrad::{Device, Feed, Graph, Tensor};

pub const VOCABULARY: usize = 11;
pub const SEGMENT: usize = 4;

pub fn config(layers: &[&str]) -> MemoryConfig {
    let layers = layers.join(", ");
    let text = format!(
        r#"{{"num_tokens": {VOCABULARY}, "dim": 8, "segment": {SEGMENT}, "heads": 2, "ff_mult": 2.0,
                "layers": [{layers}]}}"#
    );
    MemoryConfig::from_json(&text).unwrap()
}

/// All four systems and a long memory.
pub const ALL: [&str; 5] = [
    r#"{"attention": {"kind": "infini"}}"#,
    r#"{"attention": {"kind": "recurrent", "states": 3}, "feed_forward": {"kind": "product_key", "num_keys": 6, "topk": 3, "heads": 2}}"#,
    r#"{"attention": {"kind": "routed", "memories": 9, "selected": 3, "heavy_queries": 2}, "feed_forward": {"kind": "routed", "heavy_tokens": 2}}"#,
    r#"{"attention": {"kind": "local", "window": 3}, "long_memory": {"memories": 10, "selected": 2}}"#,
    r#"{"attention": {"kind": "full", "context": 6}}"#,
];

pub fn kinds() -> Vec<(&'static str, MemoryConfig)> {
    // Two layers, so that what the first makes of a token reaches what the second carries.
    let alone = |layer: &str| config(&[layer, layer]);
    let mut all = vec![("all", config(&ALL))];
    for (name, layer) in [
        ("full", r#"{"attention": {"kind": "full"}}"#),
        ("full with context", r#"{"attention": {"kind": "full", "context": 6}}"#),
        ("local", r#"{"attention": {"kind": "local", "window": 3}}"#),
        ("local over segments", r#"{"attention": {"kind": "local", "window": 7}}"#),
        ("infini", r#"{"attention": {"kind": "infini"}}"#),
        ("infini delta", r#"{"attention": {"kind": "infini", "delta_rule": true, "head_gate": -1.0}}"#),
        ("recurrent", r#"{"attention": {"kind": "recurrent", "states": 3}}"#),
        ("recurrent LSTM", r#"{"attention": {"kind": "recurrent", "gate": "lstm", "gates": "dual"}}"#),
        ("routed", r#"{"attention": {"kind": "routed", "memories": 6, "selected": 2}}"#),
        ("routed queries", r#"{"attention": {"kind": "routed", "memories": 9, "heavy_queries": 2, "window": 2}}"#),
        ("long", r#"{"attention": {"kind": "full"}, "long_memory": {"memories": 7, "selected": 3, "lookback": 3}}"#),
        (
            "long, no lookback",
            r#"{"attention": {"kind": "full"}, "long_memory": {"memories": 7, "selected": 3, "lookback": 0, "half": true}}"#,
        ),
        (
            "routed feed-forward",
            r#"{"attention": {"kind": "full"}, "feed_forward": {"kind": "routed", "heavy_tokens": 2}}"#,
        ),
        (
            "product keys",
            r#"{"attention": {"kind": "full"}, "feed_forward": {"kind": "product_key", "num_keys": 6, "topk": 3}}"#,
        ),
    ] {
        all.push((name, alone(layer)));
    }
    all
}

pub fn model(config: &MemoryConfig) -> (MemoryTransformer, Params) {
    let model = MemoryTransformer::new(config.clone()).unwrap();
    let params = model.init(5);
    (model, params)
}

pub fn ids(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 7) % VOCABULARY as u32).collect()
}

/// Texts u32 `[batch, n]`.
pub fn texts(batch: usize, n: usize, seed: u32) -> Tensor {
    Tensor::u32([batch, n], ids(batch * n, seed)).unwrap()
}

/// Logits of all tokens of texts from their start, `num_tokens` a token.
pub fn logits(device: &Device, config: &MemoryConfig, ids: &Tensor) -> Vec<f32> {
    let (model, params) = model(config);
    let graph = Graph::new();
    let input = graph.input("ids", ids.ty());
    let fresh = model.fresh(&graph, input.dim(0));
    let (logits, _) = model.forward(&params.vars(&graph), input, &fresh);
    let plan = device.compile_blocking(&graph, &[("logits", logits)]).unwrap();
    plan.run(&Feed::new().store(&params.store(device).unwrap()).input("ids", ids)).unwrap();
    plan.read_blocking("logits").unwrap().floats().to_vec()
}

pub fn near(what: &str, a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len(), "{what}");
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < tolerance && a.iter().all(|x| x.is_finite()), "{what} differs by {worst}");
}
