//! Streams: what is read token by token is what is read as a whole.

use super::{ALL, SEGMENT, VOCABULARY, config, ids, kinds, logits, model, near};
use crate::common;
use std::sync::Arc;
use wgrad::models::mix::{MemoryConfig, MemoryStream, MemoryStreamPlans, Sampling};
use wgrad::{DType, Device, Feed, Graph, Plan, Store, Tensor, TensorType};

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

/// What the stream draws token by token is what whole texts give under the same seed, whatever the layers are.
#[test]
fn drawn_tokens_are_those_of_whole_texts() {
    let (count, seed) = (2 * SEGMENT + 3, 7);
    let drawn = Sampling { temperature: 0.9, top_k: Some(9), top_p: Some(0.95) };
    for device in common::devices() {
        for (name, config) in kinds() {
            // One plan for texts of all lengths: nothing looks ahead.
            let longest = 2 + count;
            let whole = Whole::new(&device, &config, longest);
            for sampling in [Sampling::greedy(), drawn] {
                let mut text = ids(2, 4);
                let (plans, store) = plans(&device, &config, 1);
                let mut stream = MemoryStream::new(&plans).unwrap();
                stream.feed(&store, &[&text]).unwrap();
                for token in stream.generate_blocking(&store, count, sampling, seed).unwrap().concat() {
                    let row = whole.last(&text);
                    let graph = Graph::new();
                    let row = graph.constant(Tensor::f32([1, VOCABULARY], row).unwrap());
                    let plan = device.compile_blocking(&graph, &[("token", row.sample(&sampling, u32::MAX))]).unwrap();
                    plan.run(&Feed::new().step(text.len() as u32, seed)).unwrap();
                    let want = plan.read_blocking("token").unwrap().ints()[0];
                    assert_eq!(want, token, "{name}, {sampling:?}, token {} on {device}", text.len());
                    text.push(token);
                }
            }
        }
    }
}

/// The model without a cache, on texts of up to `longest` tokens.
struct Whole {
    plan: Plan,
    store: Store,
    longest: usize,
}

impl Whole {
    fn new(device: &Device, config: &MemoryConfig, longest: usize) -> Self {
        let (model, params) = model(config);
        let graph = Graph::new();
        let ids = graph.input("ids", TensorType::u32([1, longest]));
        let (logits, _) = model.forward(&params.vars(&graph), ids, &model.fresh(&graph, 1));
        let plan = device.compile_blocking(&graph, &[("logits", logits)]).unwrap();
        Whole { plan, store: params.store(device).unwrap(), longest }
    }

    /// Logits after the last token.
    fn last(&self, text: &[u32]) -> Vec<f32> {
        let mut ids = text.to_vec();
        ids.resize(self.longest, 0);
        let ids = Tensor::u32([1, self.longest], ids).unwrap();
        self.plan.run(&Feed::new().store(&self.store).input("ids", &ids)).unwrap();
        let end = text.len() * VOCABULARY;
        self.plan.read_blocking("logits").unwrap().floats()[end - VOCABULARY..end].to_vec()
    }
}

/// A stream whose states were saved goes on bit for bit, in the middle of segments.
#[test]
fn saved_streams_go_on() {
    for device in common::devices() {
        let (first, store) = plans(&device, &config(&ALL), 2);
        let mut stream = MemoryStream::new(&first).unwrap();
        stream.feed(&store, &[&ids(2 * SEGMENT + 3, 1), &ids(SEGMENT - 1, 2)]).unwrap();
        let read = stream.tokens_read().to_vec();
        let saved: Vec<(String, Tensor)> = stream
            .store()
            .names()
            .into_iter()
            .map(|n| (n.clone(), stream.store().read_blocking(&n).unwrap()))
            .collect();
        let of = |name: &str| Ok(saved.iter().find(|(n, _)| n == name).unwrap().1.clone());
        let (again, store_again) = plans(&device, &config(&ALL), 2);
        let mut resumed = MemoryStream::resume(&again, &read, of).unwrap();
        let more = [ids(SEGMENT + 1, 3), ids(SEGMENT, 4)];
        let go = |stream: &mut MemoryStream, store: &Store| {
            stream.feed(store, &[&more[0], &more[1]]).unwrap();
            let drawn = stream.generate_blocking(store, 2 * SEGMENT + 1, Sampling::default(), 5).unwrap();
            (drawn, last(stream), stream.tokens_read().to_vec())
        };
        assert_eq!(go(&mut resumed, &store_again), go(&mut stream, &store), "{device}");
        assert!(MemoryStream::resume(&again, &[1], of).is_err());
        let error =
            MemoryStream::resume(&again, &[1, 1], |_| Ok(Tensor::scalar(0.0))).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("expected") && error.contains("got f32[]"), "{error}");
    }
}

/// Segments of one token, heads of two features, one head; states, memories and windows of one.
#[test]
fn awkward_extents_stream_too() {
    let layers = [
        r#"{"attention": {"kind": "full", "context": 1}}"#,
        r#"{"attention": {"kind": "local", "window": 1}}"#,
        r#"{"attention": {"kind": "infini", "delta_rule": true}}"#,
        r#"{"attention": {"kind": "recurrent", "states": 1}}"#,
        r#"{"attention": {"kind": "routed", "memories": 1, "selected": 1, "heavy_queries": 1, "window": 1},
            "feed_forward": {"kind": "routed", "heavy_tokens": 1}}"#,
        r#"{"attention": {"kind": "full"}, "long_memory": {"memories": 1, "selected": 5, "lookback": 1},
            "feed_forward": {"kind": "product_key", "num_keys": 1, "heads": 1}}"#,
    ];
    for device in common::devices() {
        for segment in [1, 3, 17] {
            let text = format!(
                r#"{{"num_tokens": {VOCABULARY}, "dim": 7, "segment": {segment}, "heads": 1, "dim_head": 2, "ff_mult": 1.0,
                    "layers": [{}]}}"#,
                layers.join(", ")
            );
            let config = MemoryConfig::from_json(&text).unwrap();
            let text = ids(19, 3);
            let whole = logits(&device, &config, &Tensor::u32([1, 19], text.clone()).unwrap());
            let (plans, store) = plans(&device, &config, 1);
            for pieces in [vec![1; 19], vec![2, 5, 1, 11], vec![19]] {
                let mut stream = MemoryStream::new(&plans).unwrap();
                let mut at = 0;
                for piece in pieces {
                    stream.feed(&store, &[&text[at..at + piece]]).unwrap();
                    at += piece;
                    let want = &whole[(at - 1) * VOCABULARY..at * VOCABULARY];
                    near(&format!("segment {segment}, token {at} on {device}"), &last(&stream), want, 2e-5);
                }
            }
        }
    }
}

/// What was picked for a text's segment stays for all of it, wherever segments of other texts end.
#[test]
fn what_was_picked_stays_for_a_segment() {
    for device in common::devices() {
        let (plans, store) = plans(&device, &config(&ALL), 2);
        let mut stream = MemoryStream::new(&plans).unwrap();
        stream.feed(&store, &[&ids(2 * SEGMENT + 1, 1), &ids(SEGMENT - 1, 2)]).unwrap();
        let names = ["layers.2.heavy.recalled.keys", "layers.3.long.recalled.values", "layers.3.long.recalled.mask"];
        let read = |stream: &MemoryStream| names.map(|n| stream.store().read_blocking(&format!("stream.{n}")).unwrap());
        let before = read(&stream);
        stream.feed(&store, &[&[], &[3]]).unwrap();
        for ((name, before), after) in names.iter().zip(before).zip(read(&stream)) {
            let halves = |t: &Tensor| {
                let numbers: Vec<u32> = match t.ty().dtype {
                    DType::F32 => t.floats().iter().map(|x| x.to_bits()).collect(),
                    DType::U32 => t.ints().to_vec(),
                };
                let (first, second) = numbers.split_at(numbers.len() / 2);
                (first.to_vec(), second.to_vec())
            };
            let (before, after) = (halves(&before), halves(&after));
            assert_eq!(before.0, after.0, "{name} on {device}");
            assert_ne!(before.1, after.1, "{name} on {device}");
        }
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
        let made = common::made(&device);
        stream.feed(&store, &[&ids(201, 1), &ids(133, 2)]).unwrap();
        stream.generate_blocking(&store, 20, Sampling::default(), 0).unwrap();
        assert_eq!((stream.bytes(), plans.bytes()), bytes);
        assert_eq!(common::made(&device), made);
        assert!(last(&stream).iter().all(|x| x.is_finite()));
    }
}
