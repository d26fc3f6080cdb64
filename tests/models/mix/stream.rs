//! Streams: what is read token by token is what is read as a whole.

use super::{ALL, SEGMENT, VOCABULARY, config, ids, kinds, logits, model, near};
use crate::common;
use std::sync::Arc;
use wgrad::models::mix::{MemoryConfig, MemoryStream, MemoryStreamPlans, Sampling};
use wgrad::{Device, Feed, Graph, Store, Tensor};

fn plans(device: &Device, config: &MemoryConfig, batch: usize) -> (Arc<MemoryStreamPlans>, Store) {
    let (model, params) = model(config);
    let plans = pollster::block_on(model.stream_plans(device, &params, batch)).unwrap();
    (plans, params.store(device).unwrap())
}

fn last(stream: &MemoryStream) -> Vec<f32> {
    pollster::block_on(stream.logits()).unwrap().floats().to_vec()
}

#[test]
fn token_by_token_is_the_whole() {
    let n = 4 * SEGMENT + 3;
    for device in common::devices() {
        for (name, config) in kinds() {
            let text = ids(n, 1);
            let whole = logits(&device, &config, &Tensor::u32([1, n], text.clone()).unwrap());
            let (plans, store) = plans(&device, &config, 1);
            let mut stream = MemoryStream::new(&plans).unwrap();
            for (i, token) in text.iter().enumerate() {
                stream.feed(&store, &[&[*token]]).unwrap();
                let want = &whole[i * VOCABULARY..(i + 1) * VOCABULARY];
                near(&format!("{name}, token {i} on {device}"), &last(&stream), want, 2e-5);
            }
        }
    }
}

#[test]
fn texts_of_any_length_do_not_see_each_other() {
    let texts = [ids(14, 1), ids(3, 2), ids(9, 3)];
    for device in common::devices() {
        let config = config(&ALL);
        let (together, store) = plans(&device, &config, 3);
        let mut stream = MemoryStream::new(&together).unwrap();
        stream.feed(&store, &[&texts[0][..5], &[], &texts[2]]).unwrap();
        stream.feed(&store, &[&texts[0][5..], &texts[1], &[]]).unwrap();
        assert_eq!(stream.tokens_read(), [14, 3, 9]);
        for (i, text) in texts.iter().enumerate() {
            let all = logits(&device, &config, &Tensor::u32([1, text.len()], text.clone()).unwrap());
            let got = &last(&stream)[i * VOCABULARY..(i + 1) * VOCABULARY];
            near(&format!("text {i} on {device}"), got, &all[all.len() - VOCABULARY..], 2e-5);
        }
    }
}

/// What the stream draws is what whole texts give under the same seed.
#[test]
fn drawn_tokens_are_those_of_whole_texts() {
    let (count, seed) = (11, 7);
    let device = Device::cpu();
    let config = config(&ALL);
    let sampling = Sampling { temperature: 0.9, top_k: Some(9), top_p: Some(0.95) };
    let mut text = ids(6, 4);
    let (plans, store) = plans(&device, &config, 1);
    let mut stream = MemoryStream::new(&plans).unwrap();
    stream.feed(&store, &[&text]).unwrap();
    for token in stream.generate_blocking(&store, count, sampling, seed).unwrap().concat() {
        let all = logits(&device, &config, &Tensor::u32([1, text.len()], text.clone()).unwrap());
        let graph = Graph::new();
        let row = graph.constant(Tensor::f32([1, VOCABULARY], all[all.len() - VOCABULARY..].to_vec()).unwrap());
        let plan = device.compile_blocking(&graph, &[("token", row.sample(&sampling, u32::MAX))]).unwrap();
        plan.run(&Feed::new().step(text.len() as u32, seed)).unwrap();
        assert_eq!(plan.read_blocking("token").unwrap().ints()[0], token, "token {}", text.len());
        text.push(token);
    }
}

#[test]
fn long_texts_compile_and_allocate_nothing() {
    let config = config(&ALL);
    for device in std::iter::once(Device::cpu()).chain(common::fresh(common::options())) {
        let (plans, store) = plans(&device, &config, 2);
        let mut stream = MemoryStream::new(&plans).unwrap();
        let bytes = (stream.bytes(), plans.bytes());
        stream.feed(&store, &[&ids(9, 1), &ids(3, 2)]).unwrap();
        stream.generate_blocking(&store, 9, Sampling::default(), 0).unwrap();
        let made = device.as_gpu().map(|g| g.counters.snapshot()[..4].to_vec());
        stream.feed(&store, &[&ids(201, 1), &ids(133, 2)]).unwrap();
        stream.generate_blocking(&store, 20, Sampling::default(), 0).unwrap();
        assert_eq!((stream.bytes(), plans.bytes()), bytes);
        assert_eq!(device.as_gpu().map(|g| g.counters.snapshot()[..4].to_vec()), made);
        assert!(last(&stream).iter().all(|x| x.is_finite()));
    }
}
