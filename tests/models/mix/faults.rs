//! Descriptions that are refused say where and why.

use super::{ALL, SEGMENT, config, model};
use wgrad::models::mix::{MemoryConfig, MemoryTransformer};
use wgrad::{Device, Error, Graph, TensorType};

fn refused(text: &str, says: &[&str]) {
    let error = MemoryConfig::from_json(text).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }));
    let message = error.to_string();
    for part in says {
        assert!(message.contains(part), "{message} lacks {part}");
    }
}

fn layer(layer: &str, says: &[&str]) {
    let first = r#"{"attention": {"kind": "full"}}"#;
    refused(&format!(r#"{{"num_tokens": 9, "dim": 8, "segment": 4, "heads": 2, "layers": [{first}, {layer}]}}"#), says);
}

#[test]
fn mistakes_are_named_with_their_place() {
    refused("{", &["EOF", "line 1"]);
    refused("[]", &["MemoryConfig"]);
    refused(r#"{"dim": 8, "segment": 4, "layers": []}"#, &["missing field `num_tokens`"]);
    refused(r#"{"num_tokens": 9, "dim": 8, "segment": 4, "layers": []}"#, &["layers: is 0"]);
    refused(r#"{"num_tokens": 9, "dim": 8, "segment": 4, "layrs": []}"#, &["unknown field `layrs`", "`layers`"]);
    layer(r#"{"attention": {"kind": "ful"}}"#, &["layers[1].attention", "unknown variant `ful`", "`infini`"]);
    layer(r#"{"attention": {}}"#, &["layers[1].attention", "missing field `kind`"]);
    layer(r#"{}"#, &["layers[1]", "missing field `attention`"]);
    layer(r#"{"attention": {"kind": "local"}}"#, &["layers[1].attention", "missing field `window`"]);
    layer(r#"{"attention": {"kind": "local", "window": 0}}"#, &["layers[1].attention.window", "at least 1"]);
    layer(r#"{"attention": {"kind": "local", "window": -3}}"#, &["layers[1].attention", "-3"]);
    layer(
        r#"{"attention": {"kind": "full", "window": 3}}"#,
        &["layers[1].attention", "unknown field `window`, expected `context`"],
    );
    layer(r#"{"attention": {"kind": "recurrent", "gate": "gru"}}"#, &["layers[1].attention", "`gru`", "`lstm`"]);
    layer(r#"{"attention": {"kind": "full"}, "ff": 3}"#, &["layers[1]", "unknown field `ff`"]);
    let ff = |text: &str, says: &[&str]| {
        layer(&format!(r#"{{"attention": {{"kind": "full"}}, "feed_forward": {text}}}"#), says)
    };
    ff(r#"{"kind": "product_key", "num_keys": 4, "topk": 5}"#, &["layers[1].feed_forward.topk", "4 sub-keys"]);
    ff(r#"{"kind": "routed"}"#, &["layers[1].feed_forward", "missing field `heavy_tokens`"]);
    ff(r#"{"kind": "routed", "heavy_tokens": 1, "light_mult": 0.0}"#, &["layers[1].feed_forward.light_mult"]);
    let long = r#"{"attention": {"kind": "full"}, "long_memory": {"memories": 0, "selected": 1}}"#;
    layer(long, &["layers[1].long_memory.memories", "at least 1"]);
    let heads = r#"{"num_tokens": 9, "dim": 8, "segment": 4, "heads": 3, "layers": [{"attention": {"kind": "full"}}]}"#;
    refused(heads, &["dim", "3 heads", "dim_head"]);
    let odd = r#"{"num_tokens": 9, "dim": 9, "segment": 4, "heads": 3, "layers": [{"attention": {"kind": "full"}}]}"#;
    refused(odd, &["dim_head", "even"]);
    let large = r#"{"num_tokens": 9, "dim": 8, "segment": 4, "heads": 2, "layers": [{"attention": {"kind": "routed", "memories": 4000000000}}]}"#;
    let config = MemoryConfig::from_json(large).unwrap();
    let message = MemoryTransformer::new(config).unwrap_err().to_string();
    assert!(message.contains("layers[0]") && message.contains("capacity"), "{message}");
}

#[test]
fn a_description_is_what_it_was_written_as() {
    let config = config(&ALL);
    assert_eq!(MemoryConfig::from_json(&config.to_json()).unwrap(), config);
}

#[test]
fn calls_that_do_not_fit_are_refused() {
    let (model, params) = model(&config(&ALL));
    let says = |build: &dyn for<'g> Fn(&'g Graph), says: &str| {
        let graph = Graph::new();
        build(&graph);
        let message = graph.error().unwrap().to_string();
        assert!(message.contains(says), "{message}");
    };
    says(
        &|g| {
            let ids = g.input("ids", TensorType::u32([1, SEGMENT]));
            model.segment_loss(&params.vars(g), ids, None);
        },
        "a multiple of segment 4",
    );
    says(
        &|g| {
            let ids = g.input("ids", TensorType::f32([1, SEGMENT]));
            model.forward(&params.vars(g), ids, &model.fresh(g, 1));
        },
        "expected ids u32 [batch, n]",
    );
    says(
        &|g| {
            let ids = g.input("ids", TensorType::u32([1, SEGMENT]));
            model.forward(&params.vars(g), ids, &model.fresh(g, 2));
        },
        "batch",
    );
    says(
        &|g| {
            let ids = g.input("ids", TensorType::u32([2, SEGMENT + 1]));
            model.segment_loss(&params.vars(g), ids, Some(g.full_u32([1], 1)));
        },
        "begin",
    );
    assert!(pollster::block_on(model.stream_plans(&Device::cpu(), &params, 0)).is_err());
}
