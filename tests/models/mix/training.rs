//! Training, checkpoints.

use super::{ALL, SEGMENT, config, kinds, model, near, texts};
use crate::common;
use wgrad::models::mix::{MemoryConfig, MemoryTransformer};
use wgrad::train::{AdamW, Checkpoint, LoadOptions, Trainer};
use wgrad::{Device, Feed, Graph, TensorType};

const BATCH: usize = 2;
const LR: f64 = 1e-2;

/// A trainer of whole texts of three segments and a bit, or of segments with what is carried.
fn trainer(device: &Device, config: &MemoryConfig, carry: bool) -> Trainer {
    let (model, params) = model(config);
    let mut builder = Trainer::builder(device, params, AdamW::default().lr(LR)).clip(1.0).config(config.to_json());
    for (name, group) in model.groups(LR, 5.0 * LR) {
        builder = builder.group(name, group);
    }
    if carry {
        builder = builder.carry(model.states(BATCH).unwrap());
    }
    let n = if carry { SEGMENT + 1 } else { 3 * SEGMENT + 3 };
    builder
        .compile_blocking(|graph, p| {
            let ids = graph.input("ids", TensorType::u32([BATCH, n]));
            if carry { model.segment_loss(p, ids, None) } else { model.loss(p, ids) }
        })
        .unwrap()
}

#[test]
fn every_kind_learns() {
    for device in common::devices() {
        for (name, config) in kinds() {
            let mut trainer = trainer(&device, &config, false);
            let text = texts(BATCH, 3 * SEGMENT + 3, 1);
            let mut losses = Vec::new();
            for _ in 0..20 {
                trainer.step(&[("ids", &text)]).unwrap();
                losses.push(trainer.loss_blocking().unwrap());
            }
            let (first, last) = (losses[0], losses[19]);
            assert!(last < 0.8 * first, "{name} on {device}: {first} to {last}");
        }
    }
}

#[test]
fn a_file_has_the_model_and_its_description() {
    let mut trainer = trainer(&Device::cpu(), &config(&ALL), false);
    let text = texts(BATCH, 3 * SEGMENT + 3, 1);
    for _ in 0..3 {
        trainer.step(&[("ids", &text)]).unwrap();
    }
    let file = Checkpoint::from_bytes(pollster::block_on(trainer.to_bytes()).unwrap()).unwrap();
    let loaded = MemoryConfig::from_checkpoint(&file).unwrap();
    assert_eq!(loaded, config(&ALL));
    let model = MemoryTransformer::new(loaded).unwrap();
    let mut params = model.init(99);
    file.load_into(&mut params, &LoadOptions { allow_extra: true, ..LoadOptions::default() }).unwrap();
    let run = |params: &wgrad::nn::Params, store: &wgrad::Store| {
        let graph = Graph::new();
        let ids = graph.input("ids", text.ty());
        let (logits, _) = model.forward(&params.vars(&graph), ids, &model.fresh(&graph, BATCH));
        let plan = Device::cpu().compile_blocking(&graph, &[("logits", logits)]).unwrap();
        plan.run(&Feed::new().store(store).input("ids", &text)).unwrap();
        plan.read_blocking("logits").unwrap()
    };
    let store = params.store(&Device::cpu()).unwrap();
    assert_eq!(run(&params, &store), run(trainer.params(), trainer.store()));
}

/// What is carried is in the checkpoint: a run resumed in the middle of its texts gives the same losses.
#[test]
fn a_resumed_run_is_the_same() {
    for device in common::devices() {
        let text = texts(BATCH, 9 * SEGMENT + 1, 6);
        let go = |trainer: &mut Trainer, steps: std::ops::Range<usize>| -> Vec<f32> {
            let step = |s: usize| {
                let rows = text.ints().chunks(9 * SEGMENT + 1);
                let piece = rows.flat_map(|row| row[s * SEGMENT..=(s + 1) * SEGMENT].to_vec()).collect();
                let piece = wgrad::Tensor::u32([BATCH, SEGMENT + 1], piece).unwrap();
                trainer.step(&[("ids", &piece)]).unwrap();
                trainer.loss_blocking().unwrap()
            };
            steps.map(step).collect()
        };
        let config = config(&ALL);
        let mut whole = trainer(&device, &config, true);
        go(&mut whole, 0..4);
        let saved = pollster::block_on(whole.to_bytes()).unwrap();
        let want = go(&mut whole, 4..9);
        let mut resumed = trainer(&device, &config, true);
        resumed.from_bytes(saved).unwrap();
        assert_eq!(go(&mut resumed, 4..9), want, "{device}");
        let mut anew = trainer(&device, &config, true);
        assert_ne!(go(&mut anew, 4..9), want);
    }
}

/// Recomputing changes nothing.
#[test]
fn recomputed_layers_have_the_same_gradients() {
    let plain = config(&ALL);
    let again = MemoryConfig { recompute: true, ..plain.clone() };
    let text = texts(BATCH, 3 * SEGMENT + 3, 1);
    let losses = [plain, again].map(|config| {
        let mut trainer = trainer(&Device::cpu(), &config, false);
        (0..4)
            .map(|_| {
                trainer.step(&[("ids", &text)]).unwrap();
                trainer.loss_blocking().unwrap()
            })
            .collect::<Vec<f32>>()
    });
    near("recomputed", &losses[0], &losses[1], 1e-5);
}
