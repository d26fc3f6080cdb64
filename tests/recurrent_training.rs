//! Training the block-recurrent transformer: gradients across blocks, cuts between calls, segments with memories in the store.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use wgrad::graph::{Gradient, Mode};
use wgrad::models::recurrent::{
    BlockRecurrentConfig, BlockRecurrentTransformer, Carried, GateConfiguration, GateKind, Memory,
    RecurrentTrainerWrapper, States,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{AdamW, Trainer};
use wgrad::{Device, Error, Feed, Graph, Tensor, TensorType, Var};

const VOCABULARY: usize = 11;
const WIDTH: usize = 4;
const SEGMENT: usize = 8;

fn tiny() -> BlockRecurrentConfig {
    BlockRecurrentConfig {
        dim_head: 4,
        heads: 2,
        block_width: WIDTH,
        max_seq_len: SEGMENT,
        num_state_vectors: Some(3),
        recurrent_layers: Some(vec![2]),
        ..BlockRecurrentConfig::new(VOCABULARY, 8, 2)
    }
}

fn gated(gate: GateKind, gates: GateConfiguration) -> BlockRecurrentConfig {
    BlockRecurrentConfig { gate, gates, ..tiny() }
}

fn variants() -> Vec<BlockRecurrentConfig> {
    vec![
        tiny(),
        BlockRecurrentConfig { compressed_mem_factor: Some(2), ..tiny() },
        tiny().as_0_3_2(),
        BlockRecurrentConfig { enhanced_recurrence: true, ..tiny() },
        BlockRecurrentConfig {
            all_layers_qk_rmsnorm: true,
            qk_rmsnorm_scale: Some(8.0),
            recurrent_layers: Some(vec![1, 2]),
            read_recurrent_layers: Some(vec![1, 1]),
            ..tiny()
        },
        BlockRecurrentConfig { xl_memories_layers: Some(vec![2]), ..tiny() },
        gated(GateKind::Lstm, GateConfiguration::Skip),
        gated(GateKind::Fixed, GateConfiguration::Single),
        gated(GateKind::Lstm, GateConfiguration::Dual),
    ]
}

fn model(config: BlockRecurrentConfig) -> (BlockRecurrentTransformer, Params) {
    let model = BlockRecurrentTransformer::new(config).unwrap();
    let params = model.init(5);
    (model, params)
}

fn ids(batch: usize, n: usize, seed: u32) -> Tensor {
    let token = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 7) % VOCABULARY as u32;
    Tensor::u32([batch, n], (0..(batch * n) as u32).map(token).collect()).unwrap()
}

/// Numbers in double precision by name.
type Numbers = BTreeMap<String, Vec<f64>>;

fn numbers(params: &Params) -> Numbers {
    let wide = |t: Tensor| t.floats().iter().map(|x| f64::from(*x)).collect();
    params.values().map(|(name, t)| (name.to_owned(), wide(t))).collect()
}

/// Runs on the oracle with parameters, and whatever else `build` declares, as inputs in double precision.
fn oracle(
    params: &Params,
    given: &Numbers,
    build: impl for<'g> Fn(&'g Graph, &ParamVars<'g>) -> Vec<(String, Var<'g>)>,
) -> Numbers {
    let graph = Graph::new();
    let declare =
        |p: &wgrad::nn::Param| (p.name().to_owned(), graph.input(p.name(), TensorType::f32(p.shape().clone())));
    let vars: Vec<_> = params.iter().map(declare).collect();
    let outputs = build(&graph, &ParamVars::from_vars(&graph, vars));
    let named: Vec<(&str, Var<'_>)> = outputs.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let plan = Device::cpu_f64().compile_blocking(&graph, &named).unwrap();
    let mut feed = Feed::new();
    for (name, values) in given {
        feed = feed.input_f64(name, values);
    }
    plan.run(&feed).unwrap();
    outputs.iter().map(|(name, _)| (name.clone(), plan.read_f64(name).unwrap())).collect()
}

/// Gradients of `seeds` to all trainable parameters and to `more`, under their names.
fn gradients<'g>(
    params: &Params,
    p: &ParamVars<'g>,
    seeds: &[(Var<'g>, Var<'g>)],
    more: &[(String, Var<'g>)],
) -> Vec<(String, Var<'g>)> {
    let own = params.iter().filter(|p| p.is_trainable()).map(|q| (q.name().to_owned(), p.get(q.name())));
    let wrt: Vec<(String, Var<'g>)> = own.chain(more.iter().cloned()).collect();
    let vars: Vec<Var<'g>> = wrt.iter().map(|(_, v)| *v).collect();
    let grads = p.graph().vjp(seeds, &vars);
    let named = wrt.into_iter().zip(grads).filter(|(_, g)| !matches!(g, Gradient::None));
    named.filter_map(|((name, _), g)| Some((name, g.dense()?))).collect()
}

fn one<'g>(g: &'g Graph) -> Var<'g> {
    g.full([], 1.0)
}

/// Carried values under names.
fn spread<'g>(carried: &Carried<'g>) -> Vec<(String, Var<'g>)> {
    let memories = carried.memories.iter().enumerate();
    let memories = memories.flat_map(|(i, m)| [(format!("carried.k{i}"), m.keys), (format!("carried.v{i}"), m.values)]);
    let states = carried.states.iter().enumerate().map(|(i, s)| (format!("carried.s{i}"), s.vectors));
    memories.chain(states).collect()
}

/// Sum of two sets; what is absent is zero.
fn plus(a: &Numbers, b: &Numbers) -> Numbers {
    let mut sum = a.clone();
    for (name, values) in b {
        let total = sum.entry(name.clone()).or_insert_with(|| vec![0.0; values.len()]);
        total.iter_mut().zip(values).for_each(|(t, v)| *t += v);
    }
    sum
}

fn assert_equal(what: &str, a: &Numbers, b: &Numbers) {
    let none = Numbers::new();
    // Absent is zero.
    for (name, values) in plus(a, &none).iter().chain(b) {
        let zeros = vec![0.0; values.len()];
        let [x, y] = [a, b].map(|set| set.get(name).unwrap_or(&zeros));
        let worst = x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-12, "{what}: {name} differs by {worst:e}");
    }
}

/// A block of the text, and the token after it.
fn half(g: &Graph, start: usize) -> Var<'_> {
    g.constant(ids(2, SEGMENT + 1, 1)).slice(1, start, WIDTH + 1)
}

/// What a call is handed, as inputs of the names of [`spread`].
fn carried_inputs<'g>(g: &'g Graph, c: &BlockRecurrentConfig, handed: &Numbers) -> Carried<'g> {
    let memory = |i: usize, part: &str| {
        let rows = handed[&format!("carried.k{i}")].len() / (2 * c.dim_head);
        graph_input(g, &format!("carried.{part}{i}"), &[2, rows, c.dim_head])
    };
    let state = |i: usize| graph_input(g, &format!("carried.s{i}"), &[2, c.states(), c.dim]);
    Carried {
        memories: (0..c.memories())
            .map(|i| Memory { keys: memory(i, "k"), values: memory(i, "v"), count: None })
            .collect(),
        states: (0..c.writers().len()).map(|i| States { vectors: state(i), written: None }).collect(),
    }
}

/// A text in two blocks, the second by itself: what it was carried are inputs, and it tells their gradients.
struct InTwo {
    /// Gradients of the first block's loss alone, and of the second's with what it was carried taken as given.
    first: Numbers,
    second: Numbers,
    /// The first block's, together with what came back through what it handed on.
    through: Numbers,
}

impl InTwo {
    fn new(model: &BlockRecurrentTransformer, params: &Params, share: f64) -> Self {
        let given = numbers(params);
        let handed = oracle(params, &given, |g, p| spread(&model.loss(p, half(g, 0), &Carried::default()).1));
        let mut both = given.clone();
        both.extend(handed.clone());
        let mut second = oracle(params, &both, |g, p| {
            let carried = carried_inputs(g, model.config(), &handed);
            let (loss, _) = model.loss(p, half(g, WIDTH), &carried);
            gradients(params, p, &[(loss * share, one(g))], &spread(&carried))
        });
        let back: Numbers =
            second.iter().filter(|(n, _)| n.starts_with("carried")).map(|(n, v)| (n.clone(), v.clone())).collect();
        second.retain(|n, _| !n.starts_with("carried"));
        let first = |back: Option<&Numbers>| {
            let mut all = given.clone();
            all.extend(back.cloned().unwrap_or_default());
            oracle(params, &all, |g, p| {
                let ids = half(g, 0);
                let (logits, carried) = model.forward_attached(p, ids.slice(1, 0, WIDTH), &Carried::default());
                let labels = ids.slice(1, 1, WIDTH).reshape([2 * WIDTH]);
                let loss = logits.reshape([2 * WIDTH, VOCABULARY]).cross_entropy_mean(labels, None);
                let mut seeds = vec![(loss * share, one(g))];
                for (name, var) in spread(&carried) {
                    if back.is_some_and(|b| b.contains_key(&name)) {
                        seeds.push((var, graph_input(g, &name, &var.shape())));
                    }
                }
                gradients(params, p, &seeds, &[])
            })
        };
        InTwo { first: first(None), through: first(Some(&back)), second }
    }
}

fn graph_input<'g>(g: &'g Graph, name: &str, shape: &[usize]) -> Var<'g> {
    g.input(name, TensorType::f32(shape))
}

#[test]
fn gradients_cross_the_blocks_of_a_call_exactly() {
    for config in variants().into_iter().filter(|c| !c.enhanced_recurrence) {
        let (model, params) = model(config.clone());
        let whole = oracle(&params, &numbers(&params), |g, p| {
            let (loss, _) = model.loss(p, g.constant(ids(2, SEGMENT + 1, 1)), &Carried::default());
            gradients(&params, p, &[(loss, one(g))], &[])
        });
        let two = InTwo::new(&model, &params, 0.5);
        assert_equal(&format!("{config:?}"), &whole, &plus(&two.through, &two.second));
        let differ = two.first.iter().any(|(n, v)| two.through.get(n).is_some_and(|t| t != v));
        assert!(differ, "something comes back through memories and states");
    }
}

#[test]
fn gradients_stop_between_calls() {
    for config in variants().into_iter().filter(|c| !c.enhanced_recurrence) {
        let (model, params) = model(config.clone());
        let calls = oracle(&params, &numbers(&params), |g, p| {
            let text = g.constant(ids(2, SEGMENT + 1, 1));
            let (a, carried) = model.loss(p, text.slice(1, 0, WIDTH + 1), &Carried::default());
            let (b, _) = model.loss(p, text.slice(1, WIDTH, WIDTH + 1), &carried);
            gradients(&params, p, &[((a + b) * 0.5, one(g))], &[])
        });
        let two = InTwo::new(&model, &params, 0.5);
        assert_equal(&format!("{config:?}"), &calls, &plus(&two.first, &two.second));
    }
}

/// The slope along one direction through all parameters, against a difference of losses.
#[test]
fn gradients_are_slopes() {
    for config in variants() {
        let config = BlockRecurrentConfig { max_seq_len: 16, ..config };
        let (model, params) = model(config.clone());
        let text = ids(2, 15, 3);
        let loss = |given: &Numbers| {
            oracle(&params, given, |g, p| {
                vec![("loss".into(), model.loss(p, g.constant(text.clone()), &Carried::default()).0)]
            })["loss"][0]
        };
        let at = numbers(&params);
        let slope = oracle(&params, &at, |g, p| {
            let (loss, _) = model.loss(p, g.constant(text.clone()), &Carried::default());
            gradients(&params, p, &[(loss, one(g))], &[])
        });
        let direction = |name: &str, i: usize| ((name.len() * 7 + i * 13) as f64 * 0.37).sin();
        let moved = |h: f64| {
            let step = |(n, v): (&String, &Vec<f64>)| {
                let values = v.iter().enumerate();
                (
                    n.clone(),
                    values.map(|(i, x)| x + if slope.contains_key(n) { h * direction(n, i) } else { 0.0 }).collect(),
                )
            };
            loss(&at.iter().map(step).collect())
        };
        let h = 1e-5;
        let want = (moved(h) - moved(-h)) / (2.0 * h);
        let along = |(n, v): (&String, &Vec<f64>)| v.iter().enumerate().map(|(i, g)| g * direction(n, i)).sum::<f64>();
        let got: f64 = slope.iter().map(along).sum();
        assert!((got - want).abs() < 1e-6 * (1.0 + want.abs()), "{got} {want} {config:?}");
        // All parameters learn from a text of several blocks, but for what four blocks are too few to use.
        let trained = params.iter().filter(|p| p.is_trainable()).map(|p| p.name());
        let still: Vec<&str> = trained.filter(|n| slope.get(*n).is_none_or(|g| g.iter().all(|x| *x == 0.0))).collect();
        assert!(still.is_empty(), "{still:?} have no gradient in {config:?}");
    }
}

/// Memories that are there but do not count are no memories, and states that were not written the first ones.
#[test]
fn what_does_not_count_is_as_if_absent() {
    for config in variants() {
        let (model, params) = model(config.clone());
        let run = |carried: bool| {
            oracle(&params, &numbers(&params), |g, p| {
                let mut past = Carried::default();
                if carried {
                    let c = model.config();
                    let memory = || g.full([2, c.memory_rows(), c.dim_head], 7.0).counted_by(g);
                    past.memories = (0..c.memories()).map(|_| memory()).collect();
                    let vectors = g.full([2, c.states(), c.dim], 7.0);
                    let states = States { vectors, written: Some(g.full_u32([2], 0)) };
                    past.states = vec![states; c.writers().len()];
                }
                let (loss, next) = model.loss(p, g.constant(ids(2, SEGMENT + 1, 1)), &past);
                let mut all = gradients(&params, p, &[(loss, one(g))], &[]);
                all.push(("loss".into(), loss));
                all.extend(next.states.iter().enumerate().map(|(i, s)| (format!("s{i}"), s.vectors)));
                all
            })
        };
        assert_equal(&format!("{config:?}"), &run(false), &run(true));
    }
}

trait Counted<'g> {
    fn counted_by(self, g: &'g Graph) -> Memory<'g>;
}

impl<'g> Counted<'g> for Var<'g> {
    fn counted_by(self, g: &'g Graph) -> Memory<'g> {
        Memory { keys: self, values: self, count: Some(g.full_u32([2], 0)) }
    }
}

#[test]
fn recomputation_changes_nothing() {
    let losses = |recompute: bool| {
        let (model, params) = model(BlockRecurrentConfig { recompute, ..tiny() });
        oracle(&params, &numbers(&params), |g, p| {
            let (loss, _) = model.loss(p, g.constant(ids(2, SEGMENT + 1, 1)), &Carried::default());
            gradients(&params, p, &[(loss, one(g))], &[])
        })
    };
    assert_eq!(losses(false), losses(true));
}

/// Segments one by one with memories in the store give the losses of one graph with all of them.
#[test]
fn segments_in_the_store_are_segments_in_one_graph() {
    let mut configs = variants();
    configs.push(BlockRecurrentConfig { xl_memories_layers: Some(Vec::new()), ..tiny() });
    for device in common::devices() {
        for config in &configs {
            let (model, params) = model(config.clone());
            let segments = RecurrentTrainerWrapper::new(model);
            let text = ids(2, 4 * SEGMENT + 1, 2);
            let whole = {
                let graph = Graph::new();
                let ids = graph.input("ids", text.ty());
                let (loss, _) = segments.loss(&params.vars(&graph), ids, Mode::Train);
                let plan = device.compile_blocking(&graph, &[("loss", loss)]).unwrap();
                plan.run(&Feed::new().store(&params.store(&device).unwrap()).input("ids", &text)).unwrap();
                plan.read_blocking("loss").unwrap().floats()[0]
            };
            let graph = Graph::new();
            let input = graph.input("ids", TensorType::u32([2, SEGMENT + 1]));
            let begin = graph.input("begin", TensorType::u32([2]));
            let loss = segments.segment_loss(&params.vars(&graph), input, Some(begin), Mode::Train);
            let plan = device.compile_blocking(&graph, &[("loss", loss)]).unwrap();
            let store = params.store(&device).unwrap();
            let kept = segments.store(&device, 2).unwrap();
            let losses = || {
                let mut sum = 0.0;
                for s in 0..4 {
                    let rows = text.ints().chunks(4 * SEGMENT + 1);
                    let piece: Vec<u32> = rows.flat_map(|row| row[s * SEGMENT..=(s + 1) * SEGMENT].to_vec()).collect();
                    let piece = Tensor::u32([2, SEGMENT + 1], piece).unwrap();
                    let begin = Tensor::u32([2], vec![u32::from(s == 0); 2]).unwrap();
                    let feed = Feed::new().store(&store).store(&kept);
                    plan.run(&feed.input("ids", &piece).input("begin", &begin)).unwrap();
                    sum += plan.read_blocking("loss").unwrap().floats()[0] / 4.0;
                }
                sum
            };
            let first = losses();
            assert!((first - whole).abs() < 1e-5, "{first} {whole} {config:?} {device}");
            assert_eq!(first, losses(), "texts that begin anew forget");
        }
    }
}

#[test]
fn dropped_memories_and_states_leave_segments_alone() {
    let (model, params) = model(BlockRecurrentConfig { compressed_mem_factor: Some(2), ..tiny() });
    let text = ids(2, 2 * SEGMENT + 1, 2);
    let run = |memories: f64, states: f64, mode: Mode, step: u32| {
        let segments = RecurrentTrainerWrapper::new(model.clone()).dropout(memories, states).unwrap();
        let graph = Graph::new();
        let p = params.vars(&graph);
        let ids = graph.input("ids", text.ty());
        let (loss, _) = segments.loss(&p, ids, mode);
        let part = |s: usize| model.loss(&p, ids.slice(1, s, SEGMENT + 1), &Carried::default()).0;
        let alone = (part(0) + part(SEGMENT)) * 0.5;
        let plan = Device::cpu().compile_blocking(&graph, &[("loss", loss), ("alone", alone)]).unwrap();
        let store = params.store(&Device::cpu()).unwrap();
        plan.run(&Feed::new().store(&store).input("ids", &text).step(step, 9)).unwrap();
        ["loss", "alone"].map(|name| plan.read_blocking(name).unwrap().floats()[0])
    };
    let [all, alone] = run(1.0, 1.0, Mode::Train, 0);
    assert!((all - alone).abs() < 1e-6, "{all} {alone}");
    let [kept, _] = run(0.0, 0.0, Mode::Train, 0);
    assert!((kept - alone).abs() > 1e-4);
    assert_eq!(run(0.0, 0.0, Mode::Train, 0), run(1.0, 1.0, Mode::Eval, 0));
    let [only_states, _] = run(1.0, 0.0, Mode::Train, 0);
    let [only_memories, _] = run(0.0, 1.0, Mode::Train, 0);
    assert!(only_states != only_memories && only_states != kept && only_memories != kept);
    let seen: Vec<f32> = (0..40).map(|step| run(0.5, 0.0, Mode::Train, step)[0]).collect();
    let dropped = seen.iter().filter(|loss| **loss == only_states).count();
    assert!((8..33).contains(&dropped), "{dropped} of 40 dropped");
    assert!(seen.iter().all(|loss| *loss == only_states || *loss == kept));
    assert!(RecurrentTrainerWrapper::new(model).dropout(1.5, 0.0).is_err());
}

const BATCH: usize = 2;
const SEGMENTS: usize = 200;

fn trainer(device: &Device) -> Trainer {
    let config = BlockRecurrentConfig { compressed_mem_factor: Some(2), ..tiny() };
    let (model, params) = model(config);
    let segments = RecurrentTrainerWrapper::new(model).dropout(0.05, 0.05).unwrap();
    Trainer::builder(device, params, AdamW::default().lr(3e-3))
        .clip(1.0)
        .config(format!("{:?}", segments.model().config()))
        .carry(segments.states(BATCH))
        .compile_blocking(|graph, p| {
            let ids = graph.input("ids", TensorType::u32([BATCH, SEGMENT + 1]));
            segments.segment_loss(p, ids, None, Mode::Train)
        })
        .unwrap()
}

/// Bits of the losses of some segments of a long text.
fn losses(trainer: &mut Trainer, segments: std::ops::Range<usize>) -> Vec<u32> {
    let step = |s| {
        trainer.step(&[("ids", &ids(BATCH, SEGMENT + 1, s as u32))]).unwrap();
        trainer.loss_blocking().unwrap().to_bits()
    };
    segments.map(step).collect()
}

/// Checkpoint for a process of this test's own, and the number of its device.
const RESUME: &str = "WGRAD_TEST_RECURRENT_RESUME";

fn later(path: &Path) -> PathBuf {
    path.with_extension("losses")
}

#[test]
fn two_hundred_segments_and_going_on_in_another_process() {
    for i in 0..1 + usize::from(common::gpu().is_some()) {
        // A device of its own: other tests would be counted too.
        let device = device(i);
        let mut trainer = trainer(&device);
        let first = losses(&mut trainer, 0..2);
        let count = || device.as_gpu().map(|g| g.counters.snapshot()[..4].to_vec());
        let (bytes, made) = (trainer.bytes(), count());
        let mut all = [first, losses(&mut trainer, 2..SEGMENTS / 2)].concat();
        assert_eq!((trainer.bytes(), count()), (bytes, made), "nothing was made or grew");
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("recurrent-{}-{i}", std::process::id()));
        pollster::block_on(trainer.save(&path)).unwrap();
        let made = count();
        all.extend(losses(&mut trainer, SEGMENTS / 2..SEGMENTS));
        assert_eq!((trainer.bytes(), count()), (bytes, made), "nothing was made or grew");
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "resumed_in_a_process_of_its_own"]);
        let out = child.env(RESUME, format!("{i}:{}", path.display())).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        let resumed: Vec<u32> =
            std::fs::read_to_string(later(&path)).unwrap().lines().map(|l| l.parse().unwrap()).collect();
        assert_eq!(resumed, all[SEGMENTS / 2..], "{device}");
        let learned = |part: &[u32]| part.iter().map(|b| f32::from_bits(*b)).sum::<f32>() / part.len() as f32;
        assert!(learned(&all[SEGMENTS - 20..]) < learned(&all[..20]), "it learns");
        for file in [path.clone(), later(&path)] {
            std::fs::remove_file(file).unwrap();
        }
    }
}

/// The CPU executor, or a GPU.
fn device(i: usize) -> Device {
    if i == 0 { Device::cpu() } else { common::fresh(common::options()).expect("a GPU was there") }
}

/// Runs only when the test above asks for it.
#[test]
fn resumed_in_a_process_of_its_own() {
    let Ok(asked) = std::env::var(RESUME) else { return };
    let (i, path) = asked.split_once(':').expect("a device and a path");
    let mut trainer = trainer(&device(i.parse().unwrap()));
    trainer.load(path).unwrap();
    let bits = losses(&mut trainer, SEGMENTS / 2..SEGMENTS);
    let lines: Vec<String> = bits.iter().map(u32::to_string).collect();
    std::fs::write(later(Path::new(path)), lines.join("\n")).unwrap();
}

#[test]
fn a_step_that_is_skipped_forgets_nothing() {
    let mut trainer = trainer(&Device::cpu());
    losses(&mut trainer, 0..3);
    let before = pollster::block_on(trainer.store().read("recurrent.states.0")).unwrap();
    let name = trainer.params().names().find(|n| n.contains("to_logits.1")).unwrap().to_owned();
    let mut broken = pollster::block_on(trainer.read_params()).unwrap();
    let shape = broken.get(&name).unwrap().shape().clone();
    broken.set(&name, Tensor::f32(shape.clone(), vec![f32::INFINITY; shape.numel()]).unwrap()).unwrap();
    broken.load_into(trainer.store()).unwrap();
    trainer.step(&[("ids", &ids(BATCH, SEGMENT + 1, 3))]).unwrap();
    assert!(matches!(trainer.loss_blocking(), Err(Error::NotFinite { .. })));
    assert_eq!(pollster::block_on(trainer.store().read("recurrent.states.0")).unwrap(), before);
}

#[test]
fn checkpoints_of_other_batches_are_refused() {
    let trainer_of = |batch: usize, carry: bool| {
        let (model, params) = model(tiny());
        let segments = RecurrentTrainerWrapper::new(model);
        let states = if carry { segments.states(batch) } else { Vec::new() };
        Trainer::builder(&Device::cpu(), params, AdamW::default())
            .carry(states)
            .compile_blocking(|graph, p| {
                let ids = graph.input("ids", TensorType::u32([batch, SEGMENT + 1]));
                segments.segment_loss(p, ids, None, Mode::Train)
            })
            .unwrap()
    };
    let bytes = pollster::block_on(trainer_of(2, true).to_bytes()).unwrap();
    let error = trainer_of(3, true).from_bytes(bytes.clone()).unwrap_err().to_string();
    assert!(error.contains("recurrent.") && error.contains('3') && error.contains('2'), "{error}");
    assert!(trainer_of(2, false).from_bytes(bytes).is_err());
    let error = trainer_of(2, false).step(&[("ids", &ids(2, SEGMENT + 1, 0))]).unwrap_err().to_string();
    assert!(error.contains("recurrent.count"), "{error}");
}

fn refused(build: impl for<'g> Fn(&'g Graph, &ParamVars<'g>, &BlockRecurrentTransformer) -> Var<'g>) -> String {
    let (model, params) = model(tiny());
    let graph = Graph::new();
    let out = build(&graph, &params.vars(&graph), &model);
    let error = Device::cpu().compile_blocking(&graph, &[("out", out)]).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Argument { .. } | Error::Shape { .. } | Error::Dtype { .. }), "{error:?}");
    error.to_string()
}

fn text(g: &Graph, b: usize, n: usize) -> Var<'_> {
    g.input("ids", TensorType::u32([b, n]))
}

#[test]
fn sequences_of_the_wrong_length() {
    for n in [1, SEGMENT, SEGMENT + 2, 2 * SEGMENT] {
        let say = refused(|g, p, m| RecurrentTrainerWrapper::new(m.clone()).loss(p, text(g, 2, n), Mode::Train).0);
        assert!(say.contains("a multiple of max_seq_len 8") && say.contains(&format!("[2, {n}]")), "{say}");
    }
    let say = refused(|g, p, m| {
        RecurrentTrainerWrapper::new(m.clone()).segment_loss(p, text(g, 2, 2 * SEGMENT + 1), None, Mode::Train)
    });
    assert!(say.contains("n of max_seq_len 8, got u32[2, 17]"), "{say}");
    for n in [0, SEGMENT + 1] {
        let say = refused(|g, p, m| m.forward(p, text(g, 2, n), &Carried::default()).0);
        assert!(say.contains("1 to 8 tokens") && say.contains(&format!("got {n}")), "{say}");
    }
    assert!(refused(|g, p, m| m.loss(p, text(g, 2, 0), &Carried::default()).0).contains("got 0"));
    let say = refused(|g, p, m| m.forward(p, g.input("ids", TensorType::f32([2, 4])), &Carried::default()).0);
    assert!(say.contains("u32 [batch, n]"), "{say}");
    refused(|g, p, m| m.forward(p, g.input("ids", TensorType::u32([4])), &Carried::default()).0);
    refused(|g, p, m| m.loss(p, g.input("ids", TensorType::u32([4])), &Carried::default()).0);
}

#[test]
fn states_and_memories_of_the_wrong_shape() {
    let states = |shape: [usize; 3]| {
        refused(|g, p, m| {
            let states = vec![States { vectors: graph_input(g, "s", &shape), written: None }];
            m.forward(p, text(g, 2, 4), &Carried { states, ..Default::default() }).0
        })
    };
    for shape in [[2, 3, 9], [2, 4, 8], [3, 3, 8], [1, 3, 8]] {
        let say = states(shape);
        let got = format!("got f32[{}, {}, {}]", shape[0], shape[1], shape[2]);
        assert!(say.contains("states 0: expected f32[2, 3, 8]") && say.contains(&got), "{say}");
    }
    let memories = |count: usize, shape: [usize; 3], most: Option<[usize; 1]>| {
        refused(|g, p, m| {
            let (keys, values) = (graph_input(g, "k", &shape), graph_input(g, "v", &shape));
            let counts = most.map(|shape| g.input("c", TensorType::u32(shape)));
            let memories = vec![Memory { keys, values, count: counts }; count];
            m.forward(p, text(g, 2, 4), &Carried { memories, ..Default::default() }).0
        })
    };
    assert!(memories(1, [2, 4, 4], None).contains("1 memories for 2 layers"));
    assert!(memories(2, [2, 5, 4], None).contains("memory 0 has 5 rows; expected at most 4"));
    assert!(memories(2, [3, 4, 4], None).contains("expected f32[2, 4, 4], got f32[3, 4, 4]"));
    assert!(memories(2, [2, 4, 6], None).contains("expected f32[2, 4, 4], got f32[2, 4, 6]"));
    assert!(memories(2, [2, 4, 4], Some([3])).contains("count: expected u32[2], got u32[3]"));
}

#[test]
fn options_no_model_can_have() {
    let says = |config: BlockRecurrentConfig, part: &str| {
        let error = BlockRecurrentTransformer::new(config).unwrap_err();
        assert!(matches!(error, Error::Argument { .. } | Error::Limit { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    };
    let t = tiny;
    says(BlockRecurrentConfig { recurrent_layers: Some(vec![3]), ..t() }, "layer 3 is out of range; expected 1 to 2");
    says(BlockRecurrentConfig { recurrent_layers: Some(vec![0]), ..t() }, "layer 0 is out of range");
    says(BlockRecurrentConfig { recurrent_layers: Some(vec![1, 1]), ..t() }, "twice");
    says(BlockRecurrentConfig { read_recurrent_layers: Some(vec![9]), ..t() }, "layer 9 is out of range");
    says(BlockRecurrentConfig { read_recurrent_layers: Some(vec![1, 2]), ..t() }, "2 readers for 1");
    let late = BlockRecurrentConfig { recurrent_layers: Some(vec![1]), read_recurrent_layers: Some(vec![2]), ..tiny() };
    says(late, "layer 2 reads what layer 1 writes");
    says(BlockRecurrentConfig { xl_memories_layers: Some(vec![4]), ..t() }, "layer 4 is out of range");
    says(BlockRecurrentConfig { max_seq_len: 10, ..t() }, "10 is no multiple of block_width 4");
    says(BlockRecurrentConfig { dim_head: 5, ..t() }, "5 is odd");
    says(BlockRecurrentConfig { compressed_mem_factor: Some(5), ..t() }, "5 is more than block_width 4");
    says(BlockRecurrentConfig { compressed_mem_factor: Some(0), ..t() }, "gives 0");
    says(BlockRecurrentConfig { num_state_vectors: Some(0), ..t() }, "num_state_vectors");
    says(BlockRecurrentConfig { heads: usize::MAX, ..t() }, "attention");
    says(BlockRecurrentConfig { depth: 0, ..t() }, "depth");
    // One layer: the package's own default writes no layer at all.
    let one = BlockRecurrentConfig { recurrent_layers: None, depth: 1, ..tiny() };
    assert_eq!(one.writers(), [1]);
    BlockRecurrentTransformer::new(one).unwrap();
}
