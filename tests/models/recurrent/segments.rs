//! Segments with memories in the store, dropped ones, checkpoints.

use super::{SEGMENT, long, model, texts, tiny, with_long};
use crate::common;
use std::path::{Path, PathBuf};
use std::process::Command;
use wgrad::graph::Mode;
use wgrad::models::recurrent::{BlockRecurrentConfig, Carried, RecurrentTrainerWrapper};
use wgrad::nn::Params;
use wgrad::train::{AdamW, Trainer};
use wgrad::{Device, Error, Feed, Graph, Tensor, TensorType};

/// Segments one by one with memories in the store give the losses of one graph with all of them.
#[test]
fn segments_in_the_store_are_segments_in_one_graph() {
    for device in common::devices() {
        for (name, config) in with_long() {
            let (model, params) = model(&config);
            let segments = RecurrentTrainerWrapper::new(model);
            let text = texts(2, 4 * SEGMENT + 1, 2);
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
            assert!((first - whole).abs() < 1e-5, "{first} {whole} {name} {device}");
            assert_eq!(first, losses(), "texts that begin anew forget");
        }
    }
}

#[test]
fn dropped_memories_and_states_leave_segments_alone() {
    let (model, params) = model(&BlockRecurrentConfig { compressed_mem_factor: Some(2), ..tiny() });
    let text = texts(2, 2 * SEGMENT + 1, 2);
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

fn wrapped() -> (RecurrentTrainerWrapper, Params) {
    let config = BlockRecurrentConfig { compressed_mem_factor: Some(2), ..long(&[2]) };
    let (model, params) = model(&config);
    (RecurrentTrainerWrapper::new(model).dropout(0.05, 0.05).unwrap(), params)
}

fn trainer(device: &Device) -> Trainer {
    let (segments, params) = wrapped();
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
        trainer.step(&[("ids", &texts(BATCH, SEGMENT + 1, s as u32))]).unwrap();
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
        let mut trainer = self::trainer(&device);
        let first = losses(&mut trainer, 0..2);
        let (bytes, made) = (trainer.bytes(), common::made(&device));
        let mut all = [first, losses(&mut trainer, 2..SEGMENTS / 2)].concat();
        assert_eq!((trainer.bytes(), common::made(&device)), (bytes, made), "nothing was made or grew");
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("recurrent-{}-{i}", std::process::id()));
        pollster::block_on(trainer.save(&path)).unwrap();
        let made = common::made(&device);
        all.extend(losses(&mut trainer, SEGMENTS / 2..SEGMENTS));
        assert_eq!((trainer.bytes(), common::made(&device)), (bytes, made), "nothing was made or grew");
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "recurrent::segments::resumed_in_a_process_of_its_own"]);
        let out = child.env(RESUME, format!("{i}:{}", path.display())).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        let resumed: Vec<u32> =
            std::fs::read_to_string(later(&path)).unwrap().lines().map(|l| l.parse().unwrap()).collect();
        assert_eq!(resumed, all[SEGMENTS / 2..], "{device}");
        // Without what the checkpoint has of the text, the same parameters go on otherwise.
        let mut forgetful = self::trainer(&device);
        forgetful.load(&path).unwrap();
        wrapped().0.restart(forgetful.store(), BATCH).unwrap();
        assert_ne!(
            losses(&mut forgetful, SEGMENTS / 2..SEGMENTS / 2 + 3),
            all[SEGMENTS / 2..SEGMENTS / 2 + 3],
            "{device}"
        );
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
    trainer.step(&[("ids", &texts(BATCH, SEGMENT + 1, 3))]).unwrap();
    assert!(matches!(trainer.loss_blocking(), Err(Error::NotFinite { .. })));
    assert_eq!(pollster::block_on(trainer.store().read("recurrent.states.0")).unwrap(), before);
}

#[test]
fn checkpoints_of_other_batches_are_refused() {
    let trainer_of = |batch: usize, carry: bool| {
        let (model, params) = model(&tiny());
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
    let error = trainer_of(2, false).step(&[("ids", &texts(2, SEGMENT + 1, 0))]).unwrap_err().to_string();
    assert!(error.contains("recurrent.count"), "{error}");
}
