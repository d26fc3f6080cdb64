//! Training a product-key memory: only rows that were read move, at their own rate; bad input changes nothing; sparse
//! memory fine-tuning.

use crate::common;
use crate::common::modules::{mask, noise};
use wgrad::graph::Mode;
use wgrad::models::product_key::{
    Lookup, ProductKeyConfig, ProductKeyMemory, SlotUsage, VALUES, choose_slots, pkm_value_parameters, values_group,
};
use wgrad::nn::Params;
use wgrad::train::{Adam, Group, Trainer};
use wgrad::{Device, Error, Feed, Graph, Result, Store, Tensor, TensorType};

const DIM: usize = 10;
const KEYS: usize = 9;
const SLOTS: usize = KEYS * KEYS;

fn config() -> ProductKeyConfig {
    ProductKeyConfig { heads: 2, num_keys: KEYS, topk: 3, dim_head: 4, ..ProductKeyConfig::new(DIM) }
}

fn layer(config: ProductKeyConfig) -> (ProductKeyMemory, Params) {
    let mut params = Params::new(3);
    let layer = ProductKeyMemory::new(&mut params, "pkm", config).unwrap_or_else(|e| panic!("{e}"));
    (layer, params)
}

/// Learns to give back what comes in; counts use and takes a mask of slots to train.
fn trainer(device: &Device, config: ProductKeyConfig, usage: &SlotUsage, rest: Group) -> Result<Trainer> {
    let (layer, params) = layer(config);
    Trainer::builder(device, params, Adam::default().lr(1e-3))
        .group(VALUES, values_group(1e-3, 1e-2))
        .group("default", rest)
        .compile_blocking(|g, p| {
            let x = g.input("x", TensorType::f32([2, 4, DIM]));
            let lookup = Lookup::new(Mode::Train, 0).trainable(g.input("trainable", TensorType::u32([SLOTS])));
            let recall = layer.recall(p, x, &lookup);
            usage.count(&[recall], &[]);
            (recall.out - x).square().mean_all()
        })
}

fn all() -> Tensor {
    mask([1, SLOTS], |_, _| true).reshape([SLOTS]).expect("a list")
}

fn params_of(trainer: &Trainer) -> Params {
    pollster::block_on(trainer.read_params()).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn only_rows_that_were_read_move_and_at_their_own_rate() -> Result<()> {
    for device in common::devices() {
        let usage = SlotUsage::new("usage", SLOTS);
        let mut t = trainer(&device, config(), &usage, Group::default())?;
        assert_eq!(t.row_updates().collect::<Vec<_>>(), ["pkm.values.weight"]);
        let counts = Store::new(&device);
        usage.reset(&counts)?;
        let before = params_of(&t);
        let x = noise(&[2, 4, DIM], 1);
        t.step_with(&[("x", &x), ("trainable", &all())], &[&counts])?;
        let (after, hits) = (params_of(&t), usage.read_blocking(&counts)?.hits);
        assert_eq!(hits.iter().sum::<f32>(), 2.0 * 4.0 * 2.0 * 3.0, "a hit for each token, head and rank");
        let moved = |name: &str| -> Result<Vec<f32>> {
            let (a, b) = (before.value(name)?, after.value(name)?);
            Ok(a.floats().iter().zip(b.floats()).map(|(a, b)| (a - b).abs()).collect())
        };
        for (slot, row) in moved("pkm.values.weight")?.chunks(DIM).enumerate() {
            if hits[slot] > 0.0 {
                // The first step of Adam is its learning rate.
                assert!(row.iter().all(|d| (d - 1e-2).abs() < 1e-4), "slot {slot}: {row:?}");
            } else {
                assert!(row.iter().all(|d| *d == 0.0), "slot {slot} was not read");
            }
        }
        let most = moved("pkm.keys")?.into_iter().fold(0.0, f32::max);
        assert!((most - 1e-3).abs() < 1e-5, "{most}");
        let first = t.loss_blocking()?;
        for _ in 0..60 {
            t.step_with(&[("x", &x), ("trainable", &all())], &[&counts])?;
        }
        assert!(t.loss_blocking()? < 0.5 * first);
        assert_eq!(usage.read_blocking(&counts)?.total_batches, 61);
    }
    Ok(())
}

/// Only looking up and the update itself see the table; nothing else in a step is of its size, or clears or counts slots.
#[test]
fn a_step_costs_what_its_hits_cost() -> Result<()> {
    for device in common::devices() {
        for limit in [128 << 20, 1 << 20] {
            let (layer, mut params) = layer(ProductKeyConfig { num_keys: 256, ..config() });
            params.limit(limit);
            let slots = layer.config().slots();
            let trainer = Trainer::builder(&device, params, Adam::default())
                .group(VALUES, values_group(1e-3, 1e-2))
                .clip(1.0)
                .compile_blocking(|g, p| {
                    let x = g.input("x", TensorType::f32([8, DIM]));
                    (layer.forward(p, x, &Lookup::new(Mode::Train, 0)) - x).square().mean_all()
                })?;
            for plan in trainer.plans() {
                assert!(plan.bytes() < 1 << 20, "{plan}");
                for step in &plan.program().steps {
                    // A piece has at least a third of the slots.
                    let large = |numel: usize| numel >= slots / 3;
                    let name = step.op.name();
                    let wrote = step.outputs.iter().any(|o| large(o.numel()));
                    assert!(!wrote || name == "adam_rows", "{name}\n{plan}");
                    let read = step.reads().any(|(_, o)| large(o.numel()));
                    let looks_up = ["weighted_gather", "gather_dot"].contains(&name);
                    assert!(!read || looks_up, "{name}\n{plan}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn bad_input_changes_nothing() -> Result<()> {
    for device in common::devices() {
        let usage = SlotUsage::new("usage", SLOTS);
        let c = ProductKeyConfig { use_layernorm: false, ..config() };
        let mut t = trainer(&device, c.clone(), &usage, Group::default())?;
        let counts = Store::new(&device);
        usage.reset(&counts)?;
        let good = noise(&[2, 4, DIM], 1);
        t.step_with(&[("x", &good), ("trainable", &all())], &[&counts])?;
        t.loss_blocking()?;
        let before = params_of(&t);
        let mut values = good.floats().to_vec();
        values[13] = f32::NAN;
        let spoiled = Tensor::f32([2, 4, DIM], values)?;
        let batch = [("x", &spoiled), ("trainable", &all())];
        t.step_with(&batch, &[&counts])?;
        let bad = t.loss_blocking();
        assert!(matches!(&bad, Err(Error::NotFinite { node, .. }) if node == "loss"), "{bad:?}");
        let first = t.first_not_finite_blocking(&batch, &[&counts])?;
        assert_eq!(first.as_deref(), Some("input \"x\" f32[2, 4, 10] at element 13"));
        assert!(before.values().eq(params_of(&t).values()), "parameters and statistics are as before");
        // The running statistics go into checkpoints, and training goes on from one as it was.
        let mut resumed = trainer(&device, c, &usage, Group::default())?;
        resumed.from_bytes(pollster::block_on(t.to_bytes())?)?;
        for t in [&mut t, &mut resumed] {
            t.step_with(&[("x", &good), ("trainable", &all())], &[&counts])?;
        }
        assert_eq!(t.loss_blocking()?, resumed.loss_blocking()?);
        assert!(params_of(&t).values().eq(params_of(&resumed).values()));
        assert_ne!(params_of(&t).value("pkm.norm.fn.running_mean")?, before.value("pkm.norm.fn.running_mean")?);
    }
    Ok(())
}

/// New text goes only into slots that it alone reads: what was learned from the background stays as it is.
#[test]
fn sparse_fine_tuning_keeps_the_rest() -> Result<()> {
    for device in common::devices() {
        let usage = SlotUsage::new("usage", SLOTS);
        let mut t = trainer(&device, config(), &usage, Group::default().lr_factor(0.0))?;
        // A plan that reads and counts.
        let (layer, _) = layer(config());
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([2, 4, DIM]));
        let recall = layer.recall(&t.params().vars(&graph), x, &Lookup::new(Mode::Eval, 0));
        usage.count(&[recall], &[]);
        let plan = device.compile_blocking(&graph, &[("out", recall.out)])?;
        let (counts, new) = (Store::new(&device), noise(&[2, 4, DIM], 99));
        let read = |counts: &Store, x: &Tensor, t: &Trainer| -> Result<Tensor> {
            plan.run(&Feed::new().store(t.store()).store(counts).input("x", x))?;
            plan.read_blocking("out")
        };
        usage.reset(&counts)?;
        let old: Vec<Tensor> = (0..6).map(|i| noise(&[2, 4, DIM], i)).collect();
        let before = old.iter().map(|x| read(&counts, x, &t)).collect::<Result<Vec<_>>>()?;
        let background = usage.read_blocking(&counts)?;
        usage.reset(&counts)?;
        read(&counts, &new, &t)?;
        let chosen = choose_slots(&usage.read_blocking(&counts)?, &background, 8)?;
        let kept = params_of(&t);
        for _ in 0..30 {
            t.step_with(&[("x", &new), ("trainable", &chosen)], &[&counts])?;
        }
        t.loss_blocking()?;
        let after = params_of(&t);
        for (name, value) in kept.values().filter(|(name, _)| !name.ends_with("values.weight")) {
            assert_eq!(value, after.value(name)?, "{name} is frozen");
        }
        let name = pkm_value_parameters(&kept).next().expect("a table").to_owned();
        let (a, b) = (kept.value(&name)?, after.value(&name)?);
        let mut changed = 0;
        for (slot, (a, b)) in a.floats().chunks(DIM).zip(b.floats().chunks(DIM)).enumerate() {
            assert!(a == b || chosen.ints()[slot] == 1, "slot {slot} is not to be trained");
            changed += usize::from(a != b);
        }
        assert_eq!(changed, 8);
        // What the background reads little of moves the background little.
        let share = |a: &Tensor, b: &Tensor| {
            let moved: f32 = a.floats().iter().zip(b.floats()).map(|(a, b)| (a - b).powi(2)).sum();
            moved / a.floats().iter().map(|v| v * v).sum::<f32>()
        };
        let drift =
            old.iter().zip(&before).map(|(x, y)| Ok(share(y, &read(&counts, x, &t)?))).collect::<Result<Vec<_>>>()?;
        let mean = drift.iter().sum::<f32>() / drift.len() as f32;
        assert!(mean < 0.1, "the background moved by {mean}");
    }
    Ok(())
}
