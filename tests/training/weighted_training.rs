//! Training of tables of which weighted rows are added up: the gradient whose rows stand nowhere moves them like one whose
//! rows do.

use crate::common;
use wgrad::graph::{Graph, Var};
use wgrad::nn::{Init, ParamVars, Params};
use wgrad::train::{Adam, AdamW, Group, Optimizer, RowUpdates, Sgd, Trainer};
use wgrad::{Device, Result, Tensor, TensorType};

const ROWS: usize = 301;
const WIDTH: usize = 5;
/// Output rows, and table rows added up in each.
const BAG: [usize; 2] = [23, 7];

fn wave(n: usize, phase: f32) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 + 1.0) * (1.7 + phase)).sin()).collect()
}

fn devices() -> Vec<(Device, f32)> {
    let mut all = vec![(Device::cpu_f64(), 1e-6)];
    all.extend(common::devices().into_iter().map(|d| (d, 2e-5)));
    all
}

/// How the rows of a bag are added up.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Fused,
    Composed,
}

impl How {
    fn bag<'g>(self, table: Var<'g>, indices: Var<'g>, weights: Var<'g>) -> Var<'g> {
        match self {
            How::Fused => table.weighted_gather(indices, weights),
            How::Composed => {
                let [n, width] = [indices.dim(0), table.dim(1)];
                (table.gather(indices) * weights.unsqueeze(2)).sum(1).reshape([n, width])
            }
        }
    }

    /// `uses` bags, one after the other with twice the rows added up, so that hits of several kinds come together.
    fn loss<'g>(self, g: &'g Graph, p: &ParamVars<'g>, uses: usize) -> Var<'g> {
        let [n, k] = BAG;
        let (table, ids) = (p.get("table"), g.input("ids", TensorType::u32([n, k])));
        let weights = p.get("weights");
        let mut y = self.bag(table, ids, weights).tanh();
        if uses > 1 {
            let more = ids.concat(&[ids * 3], 1);
            y = y * self.bag(table, more, weights.concat(&[weights.sin()], 1));
        }
        if uses > 2 {
            y = y + table.gather(ids.slice(1, 2, 1).reshape([n])) * 0.3;
        }
        y.square().sum_all()
    }
}

fn train(
    device: &Device,
    optimizer: &Optimizer,
    rule: RowUpdates,
    micro: u32,
    uses: usize,
    how: How,
) -> Result<Vec<f32>> {
    let [n, k] = BAG;
    let mut params = Params::new(1);
    params.add("table", [ROWS, WIDTH], Init::Values(wave(ROWS * WIDTH, 0.1))).group("tables");
    params.add("weights", [n, k], Init::Values(wave(n * k, 0.3)));
    let builder = Trainer::builder(device, params, optimizer.clone())
        .group("tables", Group::default().rows(rule))
        .clip(0.8)
        .accumulate(micro);
    let mut trainer = builder.compile_blocking(|g, p| how.loss(g, p, uses))?;
    assert_eq!(trainer.row_updates().count(), usize::from(rule != RowUpdates::Dense));
    for step in 0..4 * micro {
        let ids = (0..(n * k) as u32).map(|i| (i * i * 7 + step * 31) % (ROWS as u32 / 2 + 9)).collect();
        trainer.step(&[("ids", &Tensor::u32([n, k], ids)?)])?;
    }
    trainer.loss_blocking()?;
    let params = pollster::block_on(trainer.read_params())?;
    ["table", "weights"].iter().try_fold(Vec::new(), |mut all, name| {
        all.extend_from_slice(params.value(name)?.floats());
        Ok(all)
    })
}

#[test]
fn bags_train_like_their_composition() -> Result<()> {
    let optimizers: [Optimizer; 3] = [
        Sgd::default().lr(0.05).momentum(0.9).weight_decay(0.1).into(),
        Adam::default().lr(0.03).into(),
        AdamW::default().lr(0.03).weight_decay(0.2).into(),
    ];
    for (device, tolerance) in devices() {
        for optimizer in &optimizers {
            for rule in [RowUpdates::Dense, RowUpdates::PerRow, RowUpdates::Global] {
                for (micro, uses) in [(1, 1), (1, 2), (3, 1), (2, 3)] {
                    let run = |how| train(&device, optimizer, rule, micro, uses, how);
                    let (fused, composed) = (run(How::Fused)?, run(How::Composed)?);
                    assert_eq!(fused, run(How::Fused)?, "two runs give the same bits");
                    for (i, (a, b)) in fused.iter().zip(&composed).enumerate() {
                        let what = || format!("{device}: {optimizer:?} {rule:?} {micro} {uses}");
                        assert!((a - b).abs() <= tolerance, "{}: element {i}: {a} {b}", what());
                    }
                }
            }
        }
    }
    Ok(())
}

/// Rows that are not to be trained keep every bit, under weight decay and with momentum too.
#[test]
fn frozen_rows_keep_every_bit() -> Result<()> {
    let [n, k] = BAG;
    for device in common::devices() {
        let mut params = Params::new(1);
        let start = wave(ROWS * WIDTH, 0.1);
        params.add("table", [ROWS, WIDTH], Init::Values(start.clone())).group("tables");
        params.add("weights", [n, k], Init::Values(wave(n * k, 0.3)));
        let builder = Trainer::builder(&device, params, AdamW::default().lr(0.1).weight_decay(0.2))
            .group("tables", Group::default().rows(RowUpdates::PerRow));
        let mut trainer = builder.compile_blocking(|g, p| {
            let ids = g.input("ids", TensorType::u32([n, k]));
            let trained = g.input("trained", TensorType::u32([ROWS]));
            p.get("table").weighted_gather_masked(ids, p.get("weights"), trained).square().sum_all()
        })?;
        let ids: Vec<u32> = (0..(n * k) as u32).map(|i| (i * 5) % 203).collect();
        for step in 0..6 {
            // Other rows are trained from step 3 on: moments of those before it must not move them.
            let trained = (0..ROWS).map(|r| u32::from(r % 3 == step / 3)).collect();
            let ids = Tensor::u32([n, k], ids.clone())?;
            trainer.step(&[("ids", &ids), ("trained", &Tensor::u32([ROWS], trained)?)])?;
        }
        let params = pollster::block_on(trainer.read_params())?;
        let end = params.value("table")?.floats().to_vec();
        for (r, (a, b)) in start.chunks(WIDTH).zip(end.chunks(WIDTH)).enumerate() {
            assert_eq!(a != b, r % 3 < 2 && ids.contains(&(r as u32)), "row {r} on {device}");
        }
        assert_ne!(params.value("weights")?.floats(), wave(n * k, 0.3), "weights are trained all the same");
    }
    Ok(())
}

/// Neither the rows of the hits nor their gradients stand in memory.
#[test]
fn no_row_per_hit_is_kept() -> Result<()> {
    let (rows, width, n, k) = (1 << 14, 128, 256, 32);
    for (device, micro) in common::devices().into_iter().flat_map(|d| [(d.clone(), 1), (d, 2)]) {
        for optimizer in [Optimizer::from(Adam::default()), Sgd::default().into()] {
            let mut params = Params::new(1);
            params.add("table", [rows, width], Init::Normal { std: 1.0 }).group("tables");
            params.add("weights", [n, k], Init::Normal { std: 1.0 });
            let builder = Trainer::builder(&device, params, optimizer)
                .group("tables", Group::default().rows(RowUpdates::PerRow))
                .clip(1.0)
                .accumulate(micro);
            let mut trainer = builder.compile_blocking(|g, p| {
                let ids = g.input("ids", TensorType::u32([n, k]));
                p.get("table").weighted_gather(ids, p.get("weights")).square().sum_all()
            })?;
            let ids = (0..(n * k) as u32).map(|i| i.wrapping_mul(40_503) % rows as u32).collect();
            let ids = Tensor::u32([n, k], ids)?;
            (0..micro).try_for_each(|_| trainer.step(&[("ids", &ids)]))?;
            trainer.loss_blocking()?;
            let kept = n * k * width * 4;
            for plan in trainer.plans() {
                assert!(plan.bytes() < kept as u64 / 2, "{} of {kept} bytes\n{plan}", plan.bytes());
            }
        }
    }
    Ok(())
}
