//! Reading in pieces, generating, constant memory.

use super::{SEGMENT, VOCABULARY, WIDTH, long, model, texts, tiny, variants, with_long};
use crate::common;
use std::sync::Arc;
use wgrad::models::recurrent::{
    BlockRecurrentConfig, Carried, RecurrentStream, RecurrentStreamPlans, Sampling, filter_thres,
};
use wgrad::{Device, Error, Feed, Graph, Store, Tensor, TensorType, Var};

pub fn ids(n: usize, seed: u32) -> Vec<u32> {
    texts(1, n, seed).ints().to_vec()
}

/// Logits after each token of one text, segment by segment in one graph.
pub fn logits(device: &Device, config: &BlockRecurrentConfig, tokens: &[u32]) -> Vec<Vec<f32>> {
    let (model, params) = model(config);
    let segment = config.max_seq_len;
    let graph = Graph::new();
    let p = params.vars(&graph);
    let input = graph.input("ids", TensorType::u32([1, tokens.len()]));
    let (mut parts, mut carried) = (Vec::new(), Carried::default());
    for s in (0..tokens.len()).step_by(segment) {
        let piece = input.slice(1, s, segment.min(tokens.len() - s));
        let (logits, next) = model.forward(&p, piece, &carried);
        parts.push(logits);
        carried = next;
    }
    let all = if parts.len() == 1 { parts[0] } else { parts[0].concat(&parts[1..], 1) };
    let plan = device.compile_blocking(&graph, &[("logits", all)]).unwrap();
    let input = Tensor::u32([1, tokens.len()], tokens.to_vec()).unwrap();
    let store = params.store(device).unwrap();
    plan.run(&Feed::new().store(&store).input("ids", &input)).unwrap();
    plan.read_blocking("logits").unwrap().floats().chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

pub fn plans(device: &Device, config: &BlockRecurrentConfig, batch: usize) -> (Arc<RecurrentStreamPlans>, Store) {
    let (model, params) = model(config);
    let plans = pollster::block_on(model.stream_plans(device, &params, batch)).unwrap();
    (plans, params.store(device).unwrap())
}

pub fn last_logits(stream: &RecurrentStream) -> Vec<Vec<f32>> {
    pollster::block_on(stream.logits()).unwrap().floats().chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

fn assert_rows(what: &str, a: &[f32], b: &[f32]) {
    common::modules::assert_close(what, a, b);
}

#[test]
fn later_tokens_change_nothing_before_them() {
    let tokens = ids(19, 1);
    for (name, config) in with_long() {
        let before = logits(&Device::cpu(), &config, &tokens);
        for at in [0, 3, 4, 9, 18] {
            let mut changed = tokens.clone();
            changed[at] = (changed[at] + 5) % VOCABULARY as u32;
            let after = logits(&Device::cpu(), &config, &changed);
            assert_eq!(before[..at], after[..at], "{name}: token {at} is seen before it");
            assert_ne!(before[at], after[at], "{name}: token {at} counts");
        }
    }
}

#[test]
fn states_and_memories_reach_far() {
    // The first token, five blocks before the last one: through the states, or memories of memories.
    for (name, config) in variants() {
        let tokens = ids(24, 1);
        let mut changed = tokens.clone();
        changed[0] = (changed[0] + 5) % VOCABULARY as u32;
        let [a, b] = [&tokens, &changed].map(|t| logits(&Device::cpu(), &config, t));
        // Two layers of memories reach two blocks back; without states that is all.
        assert_eq!(a[23] == b[23], name == "no states", "{name}");
    }
}

#[test]
fn streaming_equals_segments_at_once() {
    for device in common::devices() {
        for (name, config) in with_long() {
            let tokens = ids(27, 5);
            let want = logits(&device, &config, &tokens);
            let (plans, store) = plans(&device, &config, 1);
            let mut stream = RecurrentStream::new(&plans).unwrap();
            for (i, token) in tokens.iter().enumerate() {
                stream.feed(&store, &[&[*token]]).unwrap();
                assert_rows(&format!("token {i}, {name}, {device}"), &last_logits(&stream)[0], &want[i]);
            }
            let mut stream = RecurrentStream::new(&plans).unwrap();
            let mut at = 0;
            for end in [3, 5, 16, 27] {
                stream.feed(&store, &[&tokens[at..end]]).unwrap();
                assert_rows(&format!("up to {end}, {name}, {device}"), &last_logits(&stream)[0], &want[end - 1]);
                at = end;
            }
        }
    }
}

/// What was picked for a text's block stays for all of it, wherever blocks of other texts end.
#[test]
fn what_was_picked_stays_for_a_block() {
    for device in common::devices() {
        let (plans, store) = plans(&device, &long(&[2]), 2);
        let mut stream = RecurrentStream::new(&plans).unwrap();
        stream.feed(&store, &[&ids(2 * WIDTH + 1, 1), &ids(WIDTH - 1, 2)]).unwrap();
        let read = |stream: &RecurrentStream| {
            let keys = stream.store().read_blocking("stream.layers.1.recalled.keys").unwrap();
            let bits: Vec<u32> = keys.floats().iter().map(|x| x.to_bits()).collect();
            let (first, second) = bits.split_at(bits.len() / 2);
            (first.to_vec(), second.to_vec())
        };
        let before = read(&stream);
        stream.feed(&store, &[&[], &[3]]).unwrap();
        let after = read(&stream);
        assert_eq!(before.0, after.0, "{device}");
        assert_ne!(before.1, after.1, "{device}");
    }
}

/// Memories and states after segments read by calls of the model.
fn handed(device: &Device, config: &BlockRecurrentConfig, tokens: &[u32]) -> (Vec<Tensor>, Vec<Tensor>) {
    let (model, params) = model(config);
    let graph = Graph::new();
    let (p, ids) = (params.vars(&graph), graph.input("ids", TensorType::u32([1, tokens.len()])));
    let mut carried = Carried::default();
    for s in (0..tokens.len()).step_by(SEGMENT) {
        carried = model.forward(&p, ids.slice(1, s, SEGMENT), &carried).1;
    }
    let memories = carried.memories.iter().enumerate().map(|(i, m)| (format!("m{i}"), m.stacked()));
    let states = carried.states.iter().enumerate().map(|(i, s)| (format!("s{i}"), s.vectors));
    let outputs: Vec<(String, Var<'_>)> = memories.chain(states).collect();
    let named: Vec<(&str, Var<'_>)> = outputs.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let plan = device.compile_blocking(&graph, &named).unwrap();
    let store = params.store(device).unwrap();
    plan.run(&Feed::new().store(&store).input("ids", &Tensor::u32([1, tokens.len()], tokens.to_vec()).unwrap()))
        .unwrap();
    let read = |kind: char| {
        let names = outputs.iter().map(|(n, _)| n).filter(|n| n.starts_with(kind));
        names.map(|n| plan.read_blocking(n).unwrap()).collect()
    };
    (read('m'), read('s'))
}

#[test]
fn streams_go_on_from_a_call() {
    for device in common::devices() {
        for (name, config) in variants() {
            let tokens = ids(23, 4);
            let want = logits(&device, &config, &tokens);
            let (plans, store) = plans(&device, &config, 1);
            for read in [SEGMENT, 2 * SEGMENT] {
                let (memories, states) = handed(&device, &config, &tokens[..read]);
                let mut stream = RecurrentStream::from_carried(&plans, &memories, &states).unwrap();
                stream.feed(&store, &[&tokens[read..]]).unwrap();
                assert_rows(&format!("after {read}, {name}, {device}"), &last_logits(&stream)[0], &want[22]);
            }
        }
    }
}

/// A stream whose states were saved goes on bit for bit, in the middle of blocks and of segments.
#[test]
fn saved_streams_go_on() {
    let all = BlockRecurrentConfig { compressed_mem_factor: Some(2), enhanced_recurrence: true, ..long(&[2]) };
    for device in common::devices() {
        for texts in [[ids(7, 1), ids(14, 2)], [ids(SEGMENT, 1), Vec::new()]] {
            let (first, store) = plans(&device, &all, 2);
            let mut stream = RecurrentStream::new(&first).unwrap();
            stream.feed(&store, &[&texts[0], &texts[1]]).unwrap();
            let read = stream.tokens_read().to_vec();
            let saved: Vec<(String, Tensor)> = stream
                .store()
                .names()
                .into_iter()
                .map(|n| (n.clone(), stream.store().read_blocking(&n).unwrap()))
                .collect();
            let of = |name: &str| Ok(saved.iter().find(|(n, _)| n == name).unwrap().1.clone());
            let (again, store_again) = plans(&device, &all, 2);
            let mut resumed = RecurrentStream::resume(&again, &read, of).unwrap();
            let more = [ids(11, 3), ids(13, 4)];
            let go = |stream: &mut RecurrentStream, store: &Store| {
                stream.feed(store, &[&more[0], &more[1]]).unwrap();
                let drawn = stream.generate_blocking(store, 20, Sampling::default(), 5).unwrap();
                (drawn, last_logits(stream), stream.tokens_read().to_vec())
            };
            assert_eq!(go(&mut resumed, &store_again), go(&mut stream, &store), "{device}");
            let refused = |read: &[u64], of: &dyn Fn(&str) -> wgrad::Result<Tensor>, says: &str| {
                let error = RecurrentStream::resume(&again, read, of).map(|_| ()).unwrap_err().to_string();
                assert!(error.contains(says), "{error}");
            };
            refused(&[1], &of, "1 counts of tokens for 2 texts");
            refused(&[1, 1], &|_| Ok(Tensor::scalar(0.0)), "expected u32[2], got f32[]");
        }
    }
}

#[test]
fn streams_from_what_does_not_fit() {
    let (plans, _) = plans(&Device::cpu(), &tiny(), 2);
    let zeros = |shape: &[usize]| Tensor::zeros(&TensorType::f32(shape));
    let refused = |memories: &[Tensor], states: &[Tensor], says: &str| {
        let error = RecurrentStream::from_carried(&plans, memories, states).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }) && error.to_string().contains(says), "{error}");
    };
    refused(&[zeros(&[2, 2, 4, 4])], &[], "1 memories for 2 layers");
    refused(&vec![zeros(&[2, 3, 4, 4]); 2], &[], "memory 0: expected f32[2, 2, 4, 4], got f32[2, 3, 4, 4]");
    refused(&[zeros(&[2, 2, 4, 4]), zeros(&[2, 2, 3, 4])], &[], "memory 1: expected f32[2, 2, 4, 4]");
    refused(&vec![zeros(&[2, 2, 5, 4]); 2], &[], "5 rows; expected at most 4");
    refused(&vec![zeros(&[7]); 2], &[], "memory 0: expected");
    refused(&[], &[zeros(&[1, 3, 8])], "states 0: expected f32[2, 3, 8], got f32[1, 3, 8]");
    refused(&[], &vec![zeros(&[2, 3, 8]); 2], "2 states for 1 layers");
    RecurrentStream::from_carried(&plans, &[], &[zeros(&[2, 3, 8])]).unwrap();
}

/// What the stream draws token by token is what whole segments give under the same seed.
#[test]
fn cached_tokens_are_the_uncached_ones() {
    let (count, seed) = (19, 11);
    for device in common::devices() {
        // On a GPU each token compiles again.
        let some = ["plain", "compressed", "long"];
        for (name, config) in with_long().into_iter().filter(|(n, _)| device.as_gpu().is_none() || some.contains(n)) {
            let drawn = Sampling { temperature: 0.9, top_k: Some(9), top_p: Some(0.95) };
            for sampling in [Sampling::greedy(), drawn] {
                let mut text = ids(5, 2);
                let (plans, store) = plans(&device, &config, 1);
                let mut stream = RecurrentStream::new(&plans).unwrap();
                stream.feed(&store, &[&text]).unwrap();
                let got = stream.generate_blocking(&store, count, sampling, seed).unwrap().concat();
                for (i, token) in got.iter().enumerate() {
                    let row = logits(&device, &config, &text).pop().unwrap();
                    let graph = Graph::new();
                    let row = graph.constant(Tensor::f32([1, VOCABULARY], row).unwrap());
                    let plan = device.compile_blocking(&graph, &[("token", row.sample(&sampling, u32::MAX))]).unwrap();
                    plan.run(&Feed::new().step(text.len() as u32, seed)).unwrap();
                    let want = plan.read_blocking("token").unwrap().ints()[0];
                    assert_eq!(want, *token, "token {i}, {name}, {sampling:?}, {device}");
                    text.push(*token);
                }
            }
        }
    }
}

#[test]
fn ragged_prompts_do_not_see_each_other() {
    let texts = [ids(13, 1), ids(4, 2), ids(1, 3), ids(10, 4)];
    let config = BlockRecurrentConfig { compressed_mem_factor: Some(2), enhanced_recurrence: true, ..tiny() };
    for device in common::devices() {
        let (together, store) = plans(&device, &config, 4);
        let mut batch = RecurrentStream::new(&together).unwrap();
        batch.feed(&store, &texts.each_ref().map(|t| &t[..])).unwrap();
        let got = batch.generate_blocking(&store, 13, Sampling::greedy(), 0).unwrap();
        let (alone, store) = plans(&device, &config, 1);
        for (i, text) in texts.iter().enumerate() {
            let mut stream = RecurrentStream::new(&alone).unwrap();
            stream.feed(&store, &[text]).unwrap();
            let own = stream.generate_blocking(&store, 13, Sampling::greedy(), 0).unwrap();
            assert_eq!(own[0], got[i], "text {i} on {device}");
        }
    }
}

#[test]
fn the_filter_is_the_packages() {
    let kept = |thres| filter_thres(256, thres, 1.0).top_k;
    assert_eq!([0.9, 0.0, 1.0, 0.999, 2.0].map(kept), [26, 256, 1, 1, 1].map(Some));
}

#[test]
fn generating_in_two_calls_is_generating_in_one() {
    let (plans, store) = plans(&Device::cpu(), &tiny(), 2);
    let run = |counts: &[usize]| {
        let mut stream = RecurrentStream::new(&plans).unwrap();
        stream.feed(&store, &[&[1, 2, 3], &[1, 2, 3]]).unwrap();
        let parts = counts.iter().map(|n| stream.generate_blocking(&store, *n, Sampling::default(), 3).unwrap());
        parts.reduce(|a, b| a.into_iter().zip(b).map(|(a, b)| [a, b].concat()).collect()).unwrap()
    };
    let whole = run(&[70]);
    assert_eq!(whole, run(&[1, 40, 29]));
    assert_ne!(whole[0], whole[1], "texts draw their own numbers");
}

#[test]
fn long_texts_compile_and_allocate_nothing() {
    let config = BlockRecurrentConfig { compressed_mem_factor: Some(2), ..long(&[2]) };
    // A GPU of its own: other tests would be counted too.
    for device in std::iter::once(Device::cpu()).chain(common::fresh(common::options())) {
        let (plans, store) = plans(&device, &config, 2);
        let mut stream = RecurrentStream::new(&plans).unwrap();
        let bytes = (stream.bytes(), plans.bytes());
        stream.feed(&store, &[&ids(9, 1), &ids(3, 2)]).unwrap();
        stream.generate_blocking(&store, 9, Sampling::default(), 0).unwrap();
        let made = common::made(&device);
        stream.feed(&store, &[&ids(501, 1), &ids(333, 2)]).unwrap();
        stream.generate_blocking(&store, 50, Sampling::default(), 0).unwrap();
        assert_eq!((stream.bytes(), plans.bytes()), bytes);
        assert_eq!(common::made(&device), made);
        assert!(last_logits(&stream).concat().iter().all(|x| x.is_finite()));
        assert_eq!(stream.tokens_read(), [569, 395]);
    }
}

#[test]
fn bad_input_of_streams_is_refused() {
    let (plans, store) = plans(&Device::cpu(), &tiny(), 1);
    let mut stream = RecurrentStream::new(&plans).unwrap();
    let refused = |stream: &mut RecurrentStream, tokens: &[&[u32]], says: &str| {
        let error = stream.feed(&store, tokens).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    refused(&mut stream, &[&[99]], "vocabulary of 11");
    refused(&mut stream, &[], "0 texts given, the stream has 1");
    assert!(stream.generate_blocking(&store, 1, Sampling::default(), 0).unwrap_err().to_string().contains("empty"));
    assert_eq!(stream.tokens_read(), [0]);
    let (model, params) = model(&tiny());
    assert!(pollster::block_on(model.stream_plans(&Device::cpu(), &params, 0)).is_err());
}
