//! The small transformer with product-key memories: causal, trained, and generating within its window.

use crate::common;
use wgrad::graph::Mode;
use wgrad::models::infini::Sampling;
use wgrad::models::product_key::{
    Lookup, PkmStream, PkmTransformer, PkmTransformerConfig, ProductKeyConfig, VALUES, filter_thres, values_group,
};
use wgrad::nn::Params;
use wgrad::train::{AdamW, Trainer};
use wgrad::{Device, Error, Feed, Graph, Tensor, TensorType};

const VOCABULARY: usize = 11;
const WINDOW: usize = 9;

fn config() -> PkmTransformerConfig {
    let memory = ProductKeyConfig { heads: 2, num_keys: 6, topk: 3, dim_head: 4, ..ProductKeyConfig::new(12) };
    let c = PkmTransformerConfig::new(VOCABULARY, 3, WINDOW, memory);
    PkmTransformerConfig { dim_head: 6, heads: 2, pkm_layers: vec![1, 3], ..c }
}

fn model(config: PkmTransformerConfig) -> (PkmTransformer, Params) {
    let model = PkmTransformer::new(config).unwrap_or_else(|e| panic!("{e}"));
    let params = model.init(7);
    (model, params)
}

fn text(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i + 3 * i + salt) % VOCABULARY as u32).collect()
}

/// Logits of all positions of a text, read at once.
fn logits(device: &Device, model: &PkmTransformer, params: &Params, text: &[u32]) -> Vec<f32> {
    let graph = Graph::new();
    let ids = graph.input("ids", TensorType::u32([1, text.len()]));
    let y = model.forward(&params.vars(&graph), ids, Mode::Eval);
    let plan = device.compile_blocking(&graph, &[("y", y)]).unwrap_or_else(|e| panic!("{e}"));
    let store = params.store(device).expect("parameters");
    let ids = Tensor::u32([1, text.len()], text.to_vec()).expect("a tensor");
    plan.run(&Feed::new().store(&store).input("ids", &ids)).unwrap_or_else(|e| panic!("{e}"));
    plan.read_blocking("y").expect("logits").floats().to_vec()
}

/// Logits after the last token that the model sees.
fn last(device: &Device, model: &PkmTransformer, params: &Params, text: &[u32]) -> Vec<f32> {
    let all = logits(device, model, params, &text[text.len().saturating_sub(WINDOW)..]);
    all[all.len() - VOCABULARY..].to_vec()
}

fn close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-4, "{what}: {worst}");
}

#[test]
fn later_tokens_change_nothing_before_them() {
    let device = Device::cpu();
    let (model, params) = model(config());
    assert_eq!(model.memories().map(|(i, _)| i).collect::<Vec<_>>(), [0, 2]);
    let whole = text(WINDOW, 1);
    let before = logits(&device, &model, &params, &whole);
    for at in [0, 4, 8] {
        let mut changed = whole.clone();
        changed[at] = (changed[at] + 5) % VOCABULARY as u32;
        let after = logits(&device, &model, &params, &changed);
        close(&before[..at * VOCABULARY], &after[..at * VOCABULARY], "before");
        assert_ne!(before[at * VOCABULARY..], after[at * VOCABULARY..], "token {at} counts");
    }
}

#[test]
fn a_stream_sees_the_last_tokens() {
    for device in common::devices() {
        let (model, params) = model(config());
        let store = params.store(&device).expect("parameters");
        let plans = pollster::block_on(model.stream_plans(&device, &params, 2)).unwrap_or_else(|e| panic!("{e}"));
        let mut stream = PkmStream::new(&plans).expect("room");
        let whole = [text(25, 2), text(25, 3)];
        let mut at = [0, 0];
        for to in [[1, 0], [5, 0], [9, 4], [10, 4], [25, 13]] {
            let new = [&whole[0][at[0]..to[0]], &whole[1][at[1]..to[1]]];
            stream.feed_blocking(&store, &new).unwrap_or_else(|e| panic!("{e}"));
            at = to;
            let got = pollster::block_on(stream.logits()).expect("logits");
            for i in 0..2 {
                let got = &got.floats()[i * VOCABULARY..][..VOCABULARY];
                if at[i] == 0 {
                    assert!(got.iter().all(|v| *v == 0.0), "nothing was read");
                } else {
                    close(got, &last(&device, &model, &params, &whole[i][..at[i]]), &format!("{device} {to:?}"));
                }
            }
        }
        assert_eq!(stream.tokens_read(), [25, 13]);
    }
}

#[test]
fn generating() {
    for device in common::devices() {
        let (model, params) = model(config());
        let store = params.store(&device).expect("parameters");
        let plans = pollster::block_on(model.stream_plans(&device, &params, 2)).unwrap_or_else(|e| panic!("{e}"));
        let prompts = [text(6, 3), text(3, 4)];
        let start = || {
            let mut stream = PkmStream::new(&plans).expect("room");
            stream.feed_blocking(&store, &[&prompts[0], &prompts[1]]).unwrap_or_else(|e| panic!("{e}"));
            stream
        };
        let mut stream = start();
        let greedy = stream.generate_blocking(&store, 12, Sampling::greedy(), 0).unwrap_or_else(|e| panic!("{e}"));
        let mut texts = Vec::new();
        for (prompt, tokens) in prompts.iter().zip(&greedy) {
            let mut so_far = prompt.clone();
            for token in tokens {
                let all = last(&device, &model, &params, &so_far);
                let top = all.iter().copied().fold(f32::MIN, f32::max);
                assert!(top - all[*token as usize] < 1e-4, "{device}: the likeliest token");
                so_far.push(*token);
            }
            texts.push(so_far);
        }
        // More can be fed after drawing.
        stream.feed_blocking(&store, &[&[1, 2], &[]]).expect("reads");
        texts[0].extend([1, 2]);
        let got = pollster::block_on(stream.logits()).expect("logits");
        for (i, text) in texts.iter().enumerate() {
            close(&got.floats()[i * VOCABULARY..][..VOCABULARY], &last(&device, &model, &params, text), "fed again");
        }
        let sampling = filter_thres(VOCABULARY, 0.5, 1.0);
        assert_eq!(sampling.top_k, Some(5));
        let drawn = start().generate_blocking(&store, 40, sampling, 5).expect("tokens");
        assert_eq!(drawn, start().generate_blocking(&store, 40, sampling, 5).expect("tokens"));
        assert_ne!(drawn, start().generate_blocking(&store, 40, sampling, 6).expect("tokens"));
        let mut stream = start();
        let mut parts = stream.generate_blocking(&store, 7, sampling, 5).expect("tokens");
        let rest = stream.generate_blocking(&store, 33, sampling, 5).expect("tokens");
        parts.iter_mut().zip(rest).for_each(|(p, r)| p.extend(r));
        assert_eq!(drawn, parts, "several calls give what one gives");
    }
}

#[test]
fn nothing_is_made_per_token() {
    let Some(device) = common::fresh(common::options()) else { return };
    let (model, params) = model(config());
    let store = params.store(&device).expect("parameters");
    let plans = pollster::block_on(model.stream_plans(&device, &params, 1)).unwrap_or_else(|e| panic!("{e}"));
    let mut stream = PkmStream::new(&plans).expect("room");
    stream.feed_blocking(&store, &[&text(9, 0)]).expect("reads");
    stream.generate_blocking(&store, 8, Sampling::default(), 0).expect("tokens");
    let before = common::made(&device);
    stream.generate_blocking(&store, 40, Sampling::default(), 0).expect("tokens");
    assert_eq!(before, common::made(&device));
}

#[test]
fn it_learns() {
    for recompute in [false, true] {
        let (model, params) = model(PkmTransformerConfig { recompute, ..config() });
        let mut trainer = Trainer::builder(&Device::cpu(), params, AdamW::default().lr(1e-2))
            .group(VALUES, values_group(1e-2, 1e-2))
            .compile_blocking(|graph, p| {
                let ids = graph.input("ids", TensorType::u32([2, WINDOW + 1]));
                model.loss(p, ids, &Lookup::new(Mode::Train, 0)).0
            })
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(trainer.row_updates().count(), 2);
        let ids = [text(WINDOW + 1, 0), text(WINDOW + 1, 5)].concat();
        let ids = Tensor::u32([2, WINDOW + 1], ids).expect("a tensor");
        let mut losses = Vec::new();
        for _ in 0..40 {
            trainer.step(&[("ids", &ids)]).expect("a step");
            losses.push(trainer.loss_blocking().expect("a loss"));
        }
        assert!(losses[39] < 0.5 * losses[0], "{losses:?}");
    }
}

#[test]
fn bad_input() {
    let refused = |c: PkmTransformerConfig| assert!(matches!(PkmTransformer::new(c), Err(Error::Argument { .. })));
    refused(PkmTransformerConfig { depth: 0, ..config() });
    refused(PkmTransformerConfig { num_tokens: 0, ..config() });
    refused(PkmTransformerConfig { seq_len: 0, ..config() });
    refused(PkmTransformerConfig { heads: 0, ..config() });
    let memory = |change: fn(&mut ProductKeyConfig)| {
        let mut c = config();
        change(&mut c.memory);
        c
    };
    refused(memory(|m| m.topk = 99));
    refused(PkmTransformerConfig { recompute: true, ..memory(|m| m.use_layernorm = false) });
    let (model, params) = model(config());
    let graph = Graph::new();
    model.forward(&params.vars(&graph), graph.input("ids", TensorType::u32([1, WINDOW + 1])), Mode::Eval);
    assert!(matches!(graph.error(), Some(Error::Argument { .. })), "more tokens than positions");
    let device = Device::cpu();
    assert!(pollster::block_on(model.stream_plans(&device, &params, 0)).is_err());
    let plans = pollster::block_on(model.stream_plans(&device, &params, 1)).expect("plans");
    let store = params.store(&device).expect("parameters");
    let mut stream = PkmStream::new(&plans).expect("room");
    assert!(stream.feed_blocking(&store, &[&[1], &[2]]).is_err(), "two texts for one");
    assert!(stream.feed_blocking(&store, &[&[VOCABULARY as u32]]).is_err(), "no such token");
    assert!(stream.generate_blocking(&store, 1, Sampling::default(), 0).is_err(), "nothing to go on from");
    stream.feed_blocking(&store, &[&[1; 30]]).unwrap_or_else(|e| panic!("{e}"));
}
