//! The decoder of routed attention: causal, trained, and the same text read at once or token by token.

use crate::common;
use crate::common::modules::run;
use wgrad::models::conditional::{AutoregressiveConfig, RoutedDecoder, RoutedDecoderConfig, RoutedStream};
use wgrad::models::infini::Sampling;
use wgrad::nn::Params;
use wgrad::train::{AdamW, Trainer};
use wgrad::{Device, Error, Feed, Graph, Tensor, TensorType};

const VOCABULARY: usize = 11;
const WINDOW: usize = 4;

fn config(keys: usize) -> RoutedDecoderConfig {
    RoutedDecoderConfig::new(VOCABULARY, 16, 2, 2, WINDOW, keys)
}

fn model(config: RoutedDecoderConfig) -> (RoutedDecoder, Params) {
    let model = RoutedDecoder::new(config).unwrap_or_else(|e| panic!("{e}"));
    let params = model.init(7);
    (model, params)
}

fn text(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i + 3 * i + salt) % VOCABULARY as u32).collect()
}

/// Logits of all positions of texts `[b, n]`, read at once.
fn logits(device: &Device, model: &RoutedDecoder, params: &Params, texts: &[&[u32]]) -> Vec<f32> {
    let (b, n) = (texts.len(), texts[0].len());
    let graph = Graph::new();
    let ids = graph.input("ids", TensorType::u32([b, n]));
    let y = model.forward(&params.vars(&graph), ids);
    let plan = device.compile_blocking(&graph, &[("y", y)]).unwrap_or_else(|e| panic!("{e}"));
    let store = params.store(device).expect("parameters");
    let ids = Tensor::u32([b, n], texts.concat()).expect("a tensor");
    plan.run(&Feed::new().store(&store).input("ids", &ids)).unwrap_or_else(|e| panic!("{e}"));
    plan.read_blocking("y").expect("logits").floats().to_vec()
}

fn close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-4, "{what}: {worst}");
}

#[test]
fn later_tokens_change_nothing_before_them() {
    let device = Device::cpu();
    for keys in [2, 3, 100] {
        let (model, params) = model(config(keys));
        let whole = text(15, 1);
        let before = logits(&device, &model, &params, &[&whole]);
        for at in [0, 3, 4, 9, 14] {
            let mut changed = whole.clone();
            changed[at] = (changed[at] + 5) % VOCABULARY as u32;
            let after = logits(&device, &model, &params, &[&changed]);
            close(&before[..at * VOCABULARY], &after[..at * VOCABULARY], &format!("{keys} keys, before token {at}"));
            assert_ne!(before[at * VOCABULARY..], after[at * VOCABULARY..], "token {at} counts");
        }
    }
}

/// Scores of each layer's router.
fn scores(model: &RoutedDecoder, params: &Params, text: &[u32]) -> Vec<Tensor> {
    let ids = Tensor::u32([1, text.len()], text.to_vec()).expect("a tensor");
    run(&Device::cpu(), params, &[("ids", &ids)], |p, ids| model.router_scores(p, ids[0]))
}

#[test]
fn router_scores_see_the_text_so_far_and_tell_the_layers_apart() {
    let (model, params) = model(config(3));
    let whole = text(15, 1);
    let before = scores(&model, &params, &whole);
    assert!(before.len() == 2 && before.iter().all(|s| s.shape()[..] == [1, 15]));
    assert_ne!(before[0], before[1]);
    let mut changed = whole.clone();
    changed[9] = (changed[9] + 5) % VOCABULARY as u32;
    for (layer, (before, after)) in before.iter().zip(scores(&model, &params, &changed)).enumerate() {
        let (before, after) = (before.floats(), after.floats());
        close(&before[..9], &after[..9], &format!("layer {layer}"));
        assert_ne!(before[9], after[9], "layer {layer}");
        // The first layer scores each token by itself; the second has seen others.
        assert_eq!(before[10..] == after[10..], layer == 0, "layer {layer}");
    }
}

#[test]
fn token_by_token_is_at_once() {
    // Fewer routed queries than a window has as well: what a stream sees is the text so far.
    let few = |queries, keys| {
        let mut c = config(keys);
        c.attention.attention.num_heavy_tokens_q = queries;
        c
    };
    let wide = RoutedDecoderConfig {
        attention: AutoregressiveConfig { heavy_window_size: Some(6), ..config(3).attention },
        ..config(3)
    };
    for device in common::devices() {
        for (name, config) in
            [("plain", config(3)), ("few", few(2, 3)), ("all keys", config(100)), ("wide", wide.clone())]
        {
            let (model, params) = model(config);
            let store = params.store(&device).expect("parameters");
            let plans =
                pollster::block_on(model.stream_plans(&device, &params, 1, 21)).unwrap_or_else(|e| panic!("{e}"));
            let whole = text(21, 2);
            let (mut single, mut pieces) =
                (RoutedStream::new(&plans).expect("room"), RoutedStream::new(&plans).expect("room"));
            let mut at = 0;
            for i in 0..whole.len() {
                single.feed(&store, &[&whole[i..=i]]).unwrap_or_else(|e| panic!("{e}"));
                let want = logits(&device, &model, &params, &[&whole[..=i]]);
                let want = &want[i * VOCABULARY..];
                let got = pollster::block_on(single.logits()).expect("logits");
                close(got.floats(), want, &format!("{device}, {name}, token {i}"));
                if [0, 5, 7, 16, 20].contains(&i) {
                    pieces.feed(&store, &[&whole[at..=i]]).unwrap_or_else(|e| panic!("{e}"));
                    at = i + 1;
                    let got = pollster::block_on(pieces.logits()).expect("logits");
                    close(got.floats(), want, &format!("{device}, {name}, pieces up to {i}"));
                }
            }
        }
    }
}

#[test]
fn generating() {
    for device in common::devices() {
        let (model, params) = model(config(3));
        let store = params.store(&device).expect("parameters");
        let plans = pollster::block_on(model.stream_plans(&device, &params, 2, 64)).unwrap_or_else(|e| panic!("{e}"));
        let prompts = [text(6, 3), text(3, 4)];
        let start = || {
            let mut stream = RoutedStream::new(&plans).expect("room");
            stream.feed(&store, &[&prompts[0], &prompts[1]]).unwrap_or_else(|e| panic!("{e}"));
            stream
        };
        let greedy = start().generate_blocking(&store, 12, Sampling::greedy(), 0).unwrap_or_else(|e| panic!("{e}"));
        for (prompt, tokens) in prompts.iter().zip(&greedy) {
            let mut so_far = prompt.clone();
            for token in tokens {
                let all = logits(&device, &model, &params, &[&so_far]);
                let last = &all[all.len() - VOCABULARY..];
                let top = last.iter().copied().fold(f32::MIN, f32::max);
                assert!(top - last[*token as usize] < 1e-4, "{device}: the likeliest token");
                so_far.push(*token);
            }
        }
        let drawn = start().generate_blocking(&store, 40, Sampling::default(), 5).expect("tokens");
        assert_eq!(drawn, start().generate_blocking(&store, 40, Sampling::default(), 5).expect("tokens"));
        assert_ne!(drawn, start().generate_blocking(&store, 40, Sampling::default(), 6).expect("tokens"));
        let mut stream = start();
        let mut parts = stream.generate_blocking(&store, 7, Sampling::default(), 5).expect("tokens");
        let rest = stream.generate_blocking(&store, 33, Sampling::default(), 5).expect("tokens");
        parts.iter_mut().zip(rest).for_each(|(p, r)| p.extend(r));
        assert_eq!(drawn, parts, "several calls give what one gives");
        assert_eq!(stream.tokens_read(), [46, 43]);
        let full = stream.generate_blocking(&store, 19, Sampling::default(), 5);
        assert!(matches!(full, Err(Error::Argument { .. })), "46 + 19 tokens do not fit into 64");
        assert_eq!(stream.tokens_read(), [46, 43], "a refusal changes nothing");
    }
}

#[test]
fn nothing_is_made_per_token() {
    let Some(device) = common::fresh(common::options()) else { return };
    let (model, params) = model(config(3));
    let store = params.store(&device).expect("parameters");
    let plans = pollster::block_on(model.stream_plans(&device, &params, 1, 64)).unwrap_or_else(|e| panic!("{e}"));
    let mut stream = RoutedStream::new(&plans).expect("room");
    stream.feed(&store, &[&text(9, 0)]).expect("reads");
    stream.generate_blocking(&store, 8, Sampling::default(), 0).expect("tokens");
    let before = common::made(&device);
    stream.generate_blocking(&store, 40, Sampling::default(), 0).expect("tokens");
    assert_eq!(before, common::made(&device));
}

#[test]
fn it_learns() {
    for recompute in [false, true] {
        let (model, params) = model(RoutedDecoderConfig { recompute, ..config(3) });
        let mut trainer = Trainer::builder(&Device::cpu(), params, AdamW::default().lr(1e-2))
            .compile_blocking(|graph, p| model.loss(p, graph.input("ids", TensorType::u32([2, 18]))))
            .unwrap_or_else(|e| panic!("{e}"));
        let ids = Tensor::u32([2, 18], [text(18, 0), text(18, 5)].concat()).expect("a tensor");
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
    let refused = |c: RoutedDecoderConfig| assert!(matches!(RoutedDecoder::new(c), Err(Error::Argument { .. })));
    refused(RoutedDecoderConfig { depth: 0, ..config(3) });
    refused(RoutedDecoderConfig { num_tokens: 0, ..config(3) });
    refused(config(0));
    refused(RoutedDecoderConfig::new(VOCABULARY, 16, 2, 2, 0, 3));
    let (model, params) = model(config(3));
    let device = Device::cpu();
    assert!(pollster::block_on(model.stream_plans(&device, &params, 0, 8)).is_err());
    let plans = pollster::block_on(model.stream_plans(&device, &params, 1, 8)).expect("plans");
    let store = params.store(&device).expect("parameters");
    let mut stream = RoutedStream::new(&plans).expect("room");
    assert!(stream.feed(&store, &[&[1], &[2]]).is_err(), "two texts for one");
    assert!(stream.feed(&store, &[&[VOCABULARY as u32]]).is_err(), "no such token");
    assert!(stream.feed(&store, &[&[1; 9]]).is_err(), "nine tokens for eight");
    assert!(stream.generate_blocking(&store, 1, Sampling::default(), 0).is_err(), "nothing to go on from");
    stream.feed(&store, &[&[1; 8]]).unwrap_or_else(|e| panic!("{e}"));
}
