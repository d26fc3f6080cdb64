//! Infini-attention beyond parity: the prefix sum, streaming, ragged prompts, constant memory.

use crate::common;
use std::sync::Arc;
use wgrad::graph::Mode;
use wgrad::models::infini::{
    EnhancedRecurrence, InfiniConfig, InfiniStream, InfiniTransformer, MemoryPath, Sampling, SegmentLoss, StreamPlans,
};
use wgrad::nn::Params;
use wgrad::plan::Program;
use wgrad::{Device, Feed, Graph, Options, Store, Tensor, TensorType, Var};

const VOCABULARY: usize = 23;

fn tiny() -> InfiniConfig {
    InfiniConfig { dim_head: 6, heads: 2, ..InfiniConfig::new(VOCABULARY, 12, 2) }
}

/// A model whose gates let the memory through, so that a wrong memory shows.
fn model(config: InfiniConfig) -> (InfiniTransformer, Params) {
    let model = InfiniTransformer::new(config).unwrap();
    let mut params = model.init(3);
    let gates: Vec<String> = params.names().filter(|n| n.contains("head_gates")).map(str::to_owned).collect();
    for name in gates {
        let heads = params.get(&name).unwrap().shape()[0];
        params.set(&name, Tensor::f32([heads], (0..heads).map(|i| 0.3 - 0.7 * i as f32).collect()).unwrap()).unwrap();
    }
    (model, params)
}

fn ids(batch: usize, n: usize, seed: u32) -> Vec<u32> {
    (0..(batch * n) as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 7) % VOCABULARY as u32)
        .collect()
}

/// Loss and gradients of all trainable parameters.
fn loss_and_gradients(device: &Device, config: InfiniConfig, options: SegmentLoss, n: usize) -> Vec<(String, Tensor)> {
    let (model, params) = model(config);
    let graph = Graph::new();
    let p = params.vars(&graph);
    let input = graph.input("ids", TensorType::u32([2, n + 1]));
    let loss = model.segment_loss(&p, input, options, Mode::Eval);
    let names: Vec<String> = params.iter().filter(|p| p.is_trainable()).map(|p| p.name().to_owned()).collect();
    let wrt: Vec<_> = names.iter().map(|n| p.get(n)).collect();
    let mut outputs = vec![("loss", loss)];
    let gradients = graph.grad(loss, &wrt);
    for (name, gradient) in names.iter().zip(&gradients) {
        outputs.extend(gradient.dense().map(|g| (name.as_str(), g)));
    }
    let plan = device.compile_blocking(&graph, &outputs).unwrap();
    let store = params.store(device).unwrap();
    let tokens = Tensor::u32([2, n + 1], ids(2, n + 1, 1)).unwrap();
    plan.run(&Feed::new().store(&store).input("ids", &tokens)).unwrap();
    outputs.iter().map(|(name, _)| (name.to_string(), plan.read_blocking(name).unwrap())).collect()
}

fn assert_close(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    let d = wgrad::check::sample::difference(a, b);
    assert!(d <= tolerance, "{what}: differs by {d:.2e}");
}

#[test]
fn prefix_sum_equals_one_segment_after_the_other() {
    for device in [Device::cpu_f64()].into_iter().chain(common::gpu().cloned()) {
        for (n, learned, path) in [
            (20, false, MemoryPath::Plain),
            (23, true, MemoryPath::Plain),
            (11, false, MemoryPath::Rotated),
            (4, true, MemoryPath::Plain),
        ] {
            for every in [1, 2, 3, 100] {
                let config = InfiniConfig { learned_delta_update: learned, memory_path: path, ..tiny() };
                let options =
                    SegmentLoss { segment_length: 5, detach_mems_every_num_segments: every, ..Default::default() };
                let side = loss_and_gradients(&device, config.clone(), options, n);
                let one = loss_and_gradients(&device, config, SegmentLoss { sequential: true, ..options }, n);
                for (name, a) in &side {
                    // A gradient that one way does not have at all is zero the other way.
                    let zeros = Tensor::zeros(&a.ty());
                    let b = one.iter().find(|(other, _)| other == name).map_or(&zeros, |(_, b)| b);
                    assert_close(&format!("{name}, n {n}, detached every {every}, {device}"), a, b, 2e-5);
                }
            }
        }
    }
}

#[test]
fn recomputation_changes_memory_and_nothing_else() {
    let options = SegmentLoss { segment_length: 5, ..Default::default() };
    for delta in [false, true] {
        let config = InfiniConfig { use_mem_delta_rule: delta, ..tiny() };
        let plain = loss_and_gradients(&Device::cpu(), config.clone(), options, 20);
        let recomputed = loss_and_gradients(&Device::cpu(), InfiniConfig { recompute: true, ..config }, options, 20);
        assert_eq!(plain, recomputed);
    }
}

#[test]
fn losses_of_the_tokens_have_the_loss_as_their_mean() {
    let device = Device::cpu();
    let (model, params) = model(tiny());
    // Whole segments, a short last one, one short segment.
    for n in [15, 13, 3] {
        for sequential in [false, true] {
            let options = SegmentLoss { segment_length: 5, sequential, ..Default::default() };
            let graph = Graph::new();
            let p = params.vars(&graph);
            let input = graph.input("ids", TensorType::u32([2, n + 1]));
            let each = model.segment_losses(&p, input, options);
            let mean = model.segment_loss(&p, input, options, Mode::Eval);
            assert_eq!(each.shape()[..], [2, n]);
            let plan = device.compile_blocking(&graph, &[("each", each), ("mean", mean)]).unwrap();
            let tokens = Tensor::u32([2, n + 1], ids(2, n + 1, 4)).unwrap();
            plan.run(&Feed::new().store(&params.store(&device).unwrap()).input("ids", &tokens)).unwrap();
            let (each, mean) = (plan.read_blocking("each").unwrap(), plan.read_blocking("mean").unwrap());
            let average = each.floats().iter().sum::<f32>() / (2 * n) as f32;
            assert!((average - mean.floats()[0]).abs() < 1e-5, "{n} tokens, sequential {sequential}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let config = InfiniConfig { dim_head: 32, heads: 4, ..InfiniConfig::new(VOCABULARY, 96, 2) };
    let options = SegmentLoss { segment_length: 64, ..Default::default() };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| loss_and_gradients(&Device::cpu(), config.clone(), options, 192))
    };
    let one = with(1);
    assert!(one == with(2) && one == with(5), "1, 2 and 5 threads differ");
}

/// Logits after each token of `tokens` by whole segments in one graph.
fn logits_by_segments(device: &Device, config: &InfiniConfig, tokens: &[u32], length: usize) -> Vec<Vec<f32>> {
    let (model, params) = model(config.clone());
    let store = params.store(device).unwrap();
    let graph = Graph::new();
    let p = params.vars(&graph);
    let input = graph.input("ids", TensorType::u32([1, tokens.len()]));
    let mut parts = Vec::new();
    let mut memories = None;
    for s in (0..tokens.len()).step_by(length) {
        let n = length.min(tokens.len() - s);
        let (logits, written) = model.forward(&p, input.slice(1, s, n), memories.as_deref(), true, Mode::Eval, 0);
        memories = written;
        parts.push(logits);
    }
    let all = parts[0].concat(&parts[1..], 1);
    let plan = device.compile_blocking(&graph, &[("logits", all)]).unwrap();
    let input = Tensor::u32([1, tokens.len()], tokens.to_vec()).unwrap();
    plan.run(&Feed::new().store(&store).input("ids", &input)).unwrap();
    plan.read_blocking("logits").unwrap().floats().chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

fn plans(device: &Device, config: &InfiniConfig, batch: usize, length: usize) -> (Arc<StreamPlans>, Store) {
    let (model, params) = model(config.clone());
    let plans = pollster::block_on(model.stream_plans(device, &params, batch, length)).unwrap();
    (plans, params.store(device).unwrap())
}

fn last_logits(stream: &InfiniStream) -> Vec<Vec<f32>> {
    pollster::block_on(stream.logits()).unwrap().floats().chunks(VOCABULARY).map(<[f32]>::to_vec).collect()
}

fn assert_rows(what: &str, a: &[f32], b: &[f32]) {
    let (a, b) = (Tensor::f32([a.len()], a.to_vec()).unwrap(), Tensor::f32([b.len()], b.to_vec()).unwrap());
    assert_close(what, &a, &b, 1e-4);
}

fn variants() -> Vec<InfiniConfig> {
    vec![
        tiny(),
        InfiniConfig { use_mem_delta_rule: true, ..tiny() },
        InfiniConfig { use_mem_delta_rule: true, learned_delta_update: true, ..tiny() },
        InfiniConfig { learned_delta_update: true, memory_path: MemoryPath::Rotated, ..tiny() },
        InfiniConfig { enhanced_recurrence: EnhancedRecurrence::Memories, ..tiny() },
        InfiniConfig { enhanced_recurrence: EnhancedRecurrence::KeysValues, use_mem_delta_rule: true, ..tiny() },
    ]
}

#[test]
fn streaming_equals_whole_segments() {
    for device in common::devices() {
        for config in variants() {
            let tokens = ids(1, 17, 5);
            let want = logits_by_segments(&device, &config, &tokens, 5);
            let (plans, store) = plans(&device, &config, 1, 5);
            // Token by token, and in one piece.
            let mut stream = InfiniStream::new(&plans).unwrap();
            for (i, token) in tokens.iter().enumerate() {
                stream.feed(&store, &[&[*token]]).unwrap();
                assert_rows(&format!("token {i} of {config:?} on {device}"), &last_logits(&stream)[0], &want[i]);
            }
            let mut stream = InfiniStream::new(&plans).unwrap();
            stream.feed(&store, &[&tokens]).unwrap();
            assert_rows("the whole text", &last_logits(&stream)[0], &want[16]);
        }
    }
}

#[test]
fn ragged_prompts_do_not_see_each_other() {
    let texts = [ids(1, 13, 1), ids(1, 4, 2), ids(1, 1, 3), ids(1, 10, 4)];
    for device in common::devices() {
        let config = InfiniConfig { use_mem_delta_rule: true, learned_delta_update: true, ..tiny() };
        let sampling = Sampling::greedy();
        let (together, store) = plans(&device, &config, 4, 5);
        let mut batch = InfiniStream::new(&together).unwrap();
        batch.feed(&store, &texts.each_ref().map(|t| &t[..])).unwrap();
        let got = batch.generate_blocking(&store, 9, sampling, 0).unwrap();
        let (alone, store) = plans(&device, &config, 1, 5);
        for (i, text) in texts.iter().enumerate() {
            let mut stream = InfiniStream::new(&alone).unwrap();
            stream.feed(&store, &[text]).unwrap();
            assert_eq!(stream.generate_blocking(&store, 9, sampling, 0).unwrap()[0], got[i], "text {i} on {device}");
        }
    }
}

#[test]
fn generation_compiles_and_allocates_nothing() {
    // A device of its own: other tests would be counted too.
    let Some(device) = common::fresh(common::options()) else { return };
    let (plans, store) = plans(&device, &tiny(), 2, 4);
    let mut stream = InfiniStream::new(&plans).unwrap();
    stream.feed(&store, &[&ids(1, 9, 1), &ids(1, 3, 2)]).unwrap();
    stream.generate_blocking(&store, 9, Sampling::default(), 0).unwrap();
    let before = common::made(&device);
    stream.generate_blocking(&store, 20, Sampling::default(), 0).unwrap();
    assert_eq!(before, common::made(&device));
}

#[test]
fn a_hundred_thousand_tokens_need_no_more_memory() {
    let config = InfiniConfig { dim_head: 8, heads: 1, ..InfiniConfig::new(VOCABULARY, 8, 1) };
    let model = InfiniTransformer::new(config).unwrap();
    let params = model.init(1);
    // A GPU of its own: other tests would be counted too.
    for device in std::iter::once(Device::cpu()).chain(common::fresh(common::options())) {
        let plans = pollster::block_on(model.stream_plans(&device, &params, 1, 256)).unwrap();
        let store = params.store(&device).unwrap();
        let mut stream = InfiniStream::new(&plans).unwrap();
        let bytes = (stream.bytes(), plans.bytes());
        let piece = ids(1, 2_000, 9);
        stream.feed(&store, &[&piece]).unwrap();
        let made = common::made(&device);
        for _ in 1..50 {
            stream.feed(&store, &[&piece]).unwrap();
        }
        assert_eq!(stream.tokens_read(), [100_000]);
        assert_eq!((stream.bytes(), plans.bytes()), bytes);
        assert_eq!(common::made(&device), made);
        assert!(last_logits(&stream)[0].iter().all(|x| x.is_finite()));
    }
}

#[test]
fn sampling_filters() {
    let device = Device::cpu();
    let (plans, store) = plans(&device, &tiny(), 1, 4);
    let run = |sampling: Sampling, seed: u64| {
        let mut stream = InfiniStream::new(&plans).unwrap();
        stream.feed(&store, &[&[1, 2, 3]]).unwrap();
        // Longer than is read at once.
        stream.generate_blocking(&store, 40, sampling, seed).unwrap().remove(0)
    };
    let greedy = run(Sampling::greedy(), 0);
    assert_eq!(run(Sampling { top_k: Some(1), ..Default::default() }, 0), greedy);
    assert_eq!(run(Sampling { top_p: Some(0.0), ..Default::default() }, 0), greedy);
    let drawn = Sampling { temperature: 3.0, ..Default::default() };
    assert_eq!(run(drawn, 4), run(drawn, 4));
    assert_eq!(run(drawn, 4), run(Sampling { top_k: Some(VOCABULARY), top_p: Some(1.0), ..drawn }, 4));
    assert_ne!(run(drawn, 4), run(drawn, 5));
}

/// What the device draws and keeps to itself is what the host would have drawn and fed.
#[test]
fn greedy_tokens_are_those_of_the_logits() {
    for device in common::devices() {
        let (plans, store) = plans(&device, &tiny(), 2, 5);
        let prompts: [&[u32]; 2] = [&[1, 2, 3], &[4, 5, 6, 7, 8, 9, 10]];
        let [mut host, mut own] = [0, 1].map(|_| InfiniStream::new(&plans).unwrap());
        host.feed(&store, &prompts).unwrap();
        own.feed(&store, &prompts).unwrap();
        let got = own.generate_blocking(&store, 35, Sampling::greedy(), 0).unwrap();
        for (i, (a, b)) in got[0].iter().zip(&got[1]).enumerate() {
            let next: Vec<Vec<u32>> = last_logits(&host)
                .iter()
                .map(|row| vec![(0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32])
                .collect();
            assert_eq!([*a, *b], [next[0][0], next[1][0]], "token {i} on {device}");
            host.feed(&store, &[&next[0], &next[1]]).unwrap();
        }
        assert_eq!(host.tokens_read(), own.tokens_read());
        assert_eq!(last_logits(&host), last_logits(&own));
    }
}

#[test]
fn damaged_parameters_are_said_aloud() {
    for device in common::devices() {
        let (model, mut params) = model(tiny());
        params.set("to_logits.bias", Tensor::f32([VOCABULARY], vec![f32::NAN; VOCABULARY]).unwrap()).unwrap();
        let plans = pollster::block_on(model.stream_plans(&device, &params, 1, 4)).unwrap();
        let store = params.store(&device).unwrap();
        let mut stream = InfiniStream::new(&plans).unwrap();
        stream.feed(&store, &[&[1]]).unwrap();
        let error = stream.generate_blocking(&store, 3, Sampling::default(), 0).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
    }
}

#[test]
fn bad_input_is_refused() {
    // Sizes that no memory holds, before anything of them is made.
    let large = [InfiniConfig::new(256, 1 << 31, 1), InfiniConfig::new(256, 16, 1 << 31)];
    for config in large.into_iter().chain([InfiniConfig { heads: 1 << 20, ..tiny() }]) {
        assert!(InfiniTransformer::new(config).is_err());
    }
    let device = Device::cpu();
    let (plans, store) = plans(&device, &tiny(), 1, 4);
    let mut stream = InfiniStream::new(&plans).unwrap();
    assert!(stream.generate_blocking(&store, 1, Sampling::default(), 0).unwrap_err().to_string().contains("empty"));
    let cold = Sampling { temperature: f32::NAN, ..Default::default() };
    assert!(stream.generate_blocking(&store, 1, cold, 0).unwrap_err().to_string().contains("temperature"));
    assert!(stream.feed(&store, &[&[99]]).unwrap_err().to_string().contains("vocabulary"));
    assert!(stream.feed(&store, &[]).unwrap_err().to_string().contains("texts"));
    assert_eq!(stream.tokens_read(), [0]);
    assert!(InfiniTransformer::new(InfiniConfig { dim_head: 7, ..tiny() }).is_err());
    assert!(InfiniTransformer::new(InfiniConfig { heads: 0, ..tiny() }).is_err());
    assert!(InfiniTransformer::new(InfiniConfig { ff_dropout: 1.0, ..tiny() }).is_err());
}

/// Whatever is wrong with the graph comes back when it is compiled, in every variant of the model.
#[test]
fn mistakes_in_a_graph_are_errors() {
    for config in variants() {
        let (model, params) = model(config);
        let cut = SegmentLoss { segment_length: 4, ..Default::default() };
        for (ty, options, says) in [
            (TensorType::f32([2, 9]), cut, "u32"),
            (TensorType::u32([9]), cut, ""),
            (TensorType::u32([2, 9]), SegmentLoss { segment_length: 0, ..cut }, "segment_length"),
            (TensorType::u32([2, 9]), SegmentLoss { detach_mems_every_num_segments: 0, ..cut }, "detach_mems"),
        ] {
            let graph = Graph::new();
            let loss = model.segment_loss(&params.vars(&graph), graph.input("ids", ty), options, Mode::Train);
            let error = Device::cpu().compile_blocking(&graph, &[("loss", loss)]).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

#[test]
fn mixing_weights_learn_across_cuts() {
    for (recurrence, name) in
        [(EnhancedRecurrence::Memories, "memory_mix"), (EnhancedRecurrence::KeysValues, "key_mix")]
    {
        let config = InfiniConfig { enhanced_recurrence: recurrence, ..tiny() };
        // What mixes memories learns also if they are cut after every segment; what mixes keys and values needs a run.
        let every = if recurrence == EnhancedRecurrence::Memories { 1 } else { 2 };
        let options = SegmentLoss { segment_length: 5, detach_mems_every_num_segments: every, ..Default::default() };
        let all = loss_and_gradients(&Device::cpu_f64(), config, options, 20);
        let mut found = all.iter().filter(|(n, _)| n.contains(name)).peekable();
        assert!(found.peek().is_some(), "{name} has no gradient");
        assert!(found.all(|(_, g)| g.floats().iter().any(|x| x.abs() > 1e-6)), "{name} has a zero gradient");
    }
}

#[test]
fn generating_in_two_calls_is_generating_in_one() {
    let (plans, store) = plans(&Device::cpu(), &tiny(), 2, 4);
    let run = |counts: &[usize]| {
        let mut stream = InfiniStream::new(&plans).unwrap();
        stream.feed(&store, &[&[1, 2, 3], &[1, 2, 3]]).unwrap();
        let parts = counts.iter().map(|n| stream.generate_blocking(&store, *n, Sampling::default(), 3).unwrap());
        parts.reduce(|a, b| a.into_iter().zip(b).map(|(a, b)| [a, b].concat()).collect()).unwrap()
    };
    let whole = run(&[20]);
    assert_eq!(whole, run(&[10, 10]));
    assert_ne!(whole[0], whole[1], "texts draw their own numbers");
}

#[test]
fn padding_and_ignored_labels() {
    let (model, params) = model(InfiniConfig { use_mem_delta_rule: true, ..tiny() });
    let device = Device::cpu();
    let store = params.store(&device).unwrap();
    let loss = |n: usize, tokens: Vec<u32>, ignore_index| {
        let graph = Graph::new();
        let p = params.vars(&graph);
        let input = graph.input("ids", TensorType::u32([1, n]));
        let options = SegmentLoss { segment_length: 4, ignore_index, ..Default::default() };
        let loss = model.segment_loss(&p, input, options, Mode::Eval);
        let plan = device.compile_blocking(&graph, &[("loss", loss)]).unwrap();
        plan.run(&Feed::new().store(&store).input("ids", &Tensor::u32([1, n], tokens).unwrap())).unwrap();
        plan.read_blocking("loss").unwrap().floats()[0]
    };
    let text = ids(1, 8, 2);
    let mut padded = text.clone();
    padded.extend([u32::MAX; 6]);
    let (plain, padded) = (loss(8, text, None), loss(14, padded, Some(-1)));
    assert!((plain - padded).abs() < 1e-5, "{plain} {padded}");
    assert_eq!(loss(5, vec![7; 5], Some(7)), 0.0);
}

#[test]
fn a_step_takes_little_more_memory_than_what_lives_at_once() {
    let config = InfiniConfig { use_mem_delta_rule: true, dim_head: 32, heads: 4, ..InfiniConfig::new(256, 128, 8) };
    let model = InfiniTransformer::new(config).unwrap();
    let (graph, params) = (Graph::new(), model.init(1));
    let p = params.vars(&graph);
    let ids = graph.input("ids", TensorType::u32([2, 257]));
    let cut = SegmentLoss { segment_length: 128, ..SegmentLoss::default() };
    let loss = model.segment_loss(&p, ids, cut, Mode::Train);
    let wrt: Vec<Var<'_>> = params.names().map(|name| p.get(name)).collect();
    let gradients = graph.grad(loss, &wrt);
    let outputs = params.names().zip(&gradients).filter_map(|(name, g)| Some((name, g.dense()?)));
    let program = Program::build(&graph, &outputs.collect::<Vec<_>>(), Options::default()).unwrap();
    let slots = program.slots(None);
    assert!(slots.peak as f64 <= 1.2 * slots.least as f64, "{} bytes for {}", slots.peak, slots.least);
}
