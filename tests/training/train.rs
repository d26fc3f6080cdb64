//! Training end to end: optimizers against PyTorch's formulas, clipping, groups, accumulation, bad steps, schedules.

use crate::common;
use wgrad::nn::{Embedding, Init, Linear, Params};
use wgrad::train::{Adam, AdamW, Group, Optimizer, Schedule, Sgd, Trainer, TrainerBuilder};
use wgrad::{Device, Error, Result, Store, Tensor, TensorType};

const N: usize = 7;

/// Values that look random and are the same everywhere.
fn wave(n: usize, phase: f64) -> Vec<f32> {
    (0..n).map(|i| (((i as f64 + 1.0) * (1.7 + phase)).sin() * 1.3) as f32).collect()
}

/// Two parameters whose gradients are the inputs `ga` and `gb`.
fn linear_loss(
    device: &Device,
    optimizer: impl Into<Optimizer>,
    set: impl FnOnce(TrainerBuilder) -> TrainerBuilder,
) -> Result<Trainer> {
    let mut params = Params::new(1);
    params.add("a", [N], Init::Values(wave(N, 0.1)));
    params.add("b", [2, 3], Init::Values(wave(6, 0.2))).group("slow");
    set(Trainer::builder(device, params, optimizer)).compile_blocking(|g, p| {
        let (ga, gb) = (g.input("ga", TensorType::f32([N])), g.input("gb", TensorType::f32([2, 3])));
        (p.get("a") * ga).sum_all() + (p.get("b") * gb).sum_all()
    })
}

fn gradients(step: usize) -> Result<[Tensor; 2]> {
    let phase = step as f64 * 0.37;
    Ok([Tensor::f32([N], wave(N, phase))?, Tensor::f32([2, 3], wave(6, phase + 0.05))?])
}

fn values(trainer: &Trainer) -> Result<Vec<f32>> {
    let params = pollster::block_on(trainer.read_params())?;
    Ok(params.values().flat_map(|(_, t)| t.floats().to_vec()).collect())
}

/// One step of an optimizer in double precision: parameter, kept values, gradient, number of the step from 1, lr, weight decay.
type Formula = fn(&mut f64, &mut [f64; 2], f64, i32, f64, f64);

fn sgd(p: &mut f64, _: &mut [f64; 2], g: f64, _: i32, lr: f64, decay: f64) {
    *p -= lr * (g + decay * *p);
}

fn momentum(p: &mut f64, kept: &mut [f64; 2], g: f64, _: i32, lr: f64, decay: f64) {
    kept[0] = 0.9 * kept[0] + g + decay * *p;
    *p -= lr * kept[0];
}

fn nesterov(p: &mut f64, kept: &mut [f64; 2], g: f64, _: i32, lr: f64, decay: f64) {
    let g = g + decay * *p;
    kept[0] = 0.9 * kept[0] + g;
    *p -= lr * (g + 0.9 * kept[0]);
}

fn moments(p: &mut f64, kept: &mut [f64; 2], g: f64, t: i32, lr: f64) {
    kept[0] = 0.9 * kept[0] + 0.1 * g;
    kept[1] = 0.99 * kept[1] + 0.01 * g * g;
    let (c1, c2) = (1.0 - 0.9f64.powi(t), 1.0 - 0.99f64.powi(t));
    *p -= lr / c1 * kept[0] / (kept[1].sqrt() / c2.sqrt() + 1e-8);
}

fn adam(p: &mut f64, kept: &mut [f64; 2], g: f64, t: i32, lr: f64, decay: f64) {
    moments(p, kept, g + decay * *p, t, lr);
}

fn adamw(p: &mut f64, kept: &mut [f64; 2], g: f64, t: i32, lr: f64, decay: f64) {
    *p *= 1.0 - lr * decay;
    moments(p, kept, g, t, lr);
}

/// Parameters after 12 steps by a formula, with clipping at norm 1.5, a group at 0.25 of the learning rate without weight
/// decay, and warmup.
fn reference(formula: Formula) -> Result<Vec<f64>> {
    let mut p: Vec<f64> = wave(N, 0.1).into_iter().chain(wave(6, 0.2)).map(f64::from).collect();
    let mut kept = vec![[0.0; 2]; p.len()];
    for step in 0..12 {
        let [ga, gb] = gradients(step)?;
        let g: Vec<f64> = ga.floats().iter().chain(gb.floats()).map(|x| f64::from(*x)).collect();
        let norm = g.iter().map(|x| x * x).sum::<f64>().sqrt();
        let clip = (1.5 / (norm + 1e-6)).min(1.0);
        let lr = 0.05 * ((step + 1) as f64 / 5.0).min(1.0);
        for i in 0..p.len() {
            let (lr, decay) = if i < N { (lr, 0.3) } else { (lr * 0.25, 0.0) };
            formula(&mut p[i], &mut kept[i], g[i] * clip, step as i32 + 1, lr, decay);
        }
    }
    Ok(p)
}

#[test]
fn optimizers_follow_their_formulas() -> Result<()> {
    let sgd_of = || Sgd::default().lr(0.05).weight_decay(0.3);
    let adam_of = Adam::default().lr(0.05).weight_decay(0.3).betas(0.9, 0.99);
    let adamw_of = AdamW::default().lr(0.05).weight_decay(0.3).betas(0.9, 0.99);
    let cases: [(Optimizer, Formula); 5] = [
        (sgd_of().into(), sgd),
        (sgd_of().momentum(0.9).into(), momentum),
        (sgd_of().momentum(0.9).nesterov(true).into(), nesterov),
        (adam_of.into(), adam),
        (adamw_of.into(), adamw),
    ];
    for (optimizer, formula) in cases {
        let want = reference(formula)?;
        let mut devices = common::devices();
        devices.push(Device::cpu_f64());
        for device in devices {
            let mut trainer = linear_loss(&device, optimizer.clone(), |b| {
                b.clip(1.5)
                    .schedule(Schedule::Warmup { steps: 5 })
                    .group("slow", Group::default().lr_factor(0.25).weight_decay(0.0))
            })?;
            for step in 0..12 {
                let [ga, gb] = gradients(step)?;
                trainer.step(&[("ga", &ga), ("gb", &gb)])?;
            }
            for (i, (got, want)) in values(&trainer)?.iter().zip(&want).enumerate() {
                let error = (f64::from(*got) - want).abs();
                assert!(error < 5e-6, "{} on {device}: {i} is {got}, {want} expected", optimizer.name());
            }
        }
    }
    Ok(())
}

#[test]
fn a_bad_step_changes_nothing() -> Result<()> {
    for device in common::devices() {
        for optimizer in [Optimizer::from(AdamW::default()), Sgd::default().into(), Sgd::default().momentum(0.9).into()]
        {
            let mut trainer = linear_loss(&device, optimizer.clone(), |b| b.clip(1.0))?;
            let mut twin = linear_loss(&device, optimizer, |b| b.clip(1.0))?;
            let [ga, gb] = gradients(0)?;
            trainer.step(&[("ga", &ga), ("gb", &gb)])?;
            twin.step(&[("ga", &ga), ("gb", &gb)])?;
            let before = values(&trainer)?;
            for bad in [f32::NAN, f32::INFINITY, 3e38] {
                let mut data = wave(N, 0.0);
                data[3] = bad;
                let bad = Tensor::f32([N], data)?;
                trainer.step(&[("ga", &bad), ("gb", &gb)])?;
                assert!(matches!(trainer.loss_blocking(), Err(Error::NotFinite { .. })));
                assert_eq!(values(&trainer)?, before);
            }
            let report = trainer.report_blocking()?;
            assert_eq!((report.done, report.skipped), (1, 3));
            // The moments and the count of steps are untouched too: the next step is the twin's second.
            let [ga, gb] = gradients(1)?;
            trainer.step(&[("ga", &ga), ("gb", &gb)])?;
            twin.step(&[("ga", &ga), ("gb", &gb)])?;
            assert_eq!(values(&trainer)?, values(&twin)?);
            assert_eq!(trainer.loss_blocking()?, twin.loss_blocking()?);
        }
    }
    Ok(())
}

#[test]
fn the_first_value_that_is_not_finite_is_named() -> Result<()> {
    for device in common::devices() {
        for micro in [1, 2] {
            let mut params = Params::new(1);
            params.add("w", [4], Init::Ones);
            let mut trainer =
                Trainer::builder(&device, params, Sgd::default()).accumulate(micro).compile_blocking(|g, p| {
                    let x = g.input("x", TensorType::f32([4]));
                    ((x * p.get("w") + 1.0).square().sqrt() - 1.0).square().mean_all()
                })?;
            let mut named = |x: [f32; 4]| -> Result<Option<String>> {
                let x = Tensor::f32([4], x.to_vec())?;
                let before = values(&trainer)?;
                for _ in 0..micro {
                    trainer.step(&[("x", &x)])?;
                }
                let skipped = matches!(trainer.loss_blocking(), Err(Error::NotFinite { .. }));
                let found = trainer.first_not_finite_blocking(&[("x", &x)], &[])?;
                assert_eq!(skipped, found.is_some(), "{found:?}");
                assert!(!skipped || values(&trainer)? == before);
                assert_eq!(trainer.first_not_finite_blocking(&[("x", &x)], &[])?, found, "nothing has changed");
                Ok(found)
            };
            assert_eq!(named([1.0, f32::NAN, 0.5, f32::NAN])?.as_deref(), Some("input \"x\" f32[4] at element 1"));
            // The third value: a product and a sum come before the square.
            let square = named([1.0, 0.5, 3e30, 0.25])?.expect("overflows");
            assert!(square.ends_with(" f32[4] at element 2, value 3 of the step"), "{square}");
            // The loss is finite, the slope of the root is not.
            let slope = named([1.0, 0.5, 0.25, -1.0])?.expect("divides by 0");
            assert!(slope.contains("f32[4] at element 3"), "{slope}");
            assert_eq!(named([0.1, 0.2, 0.3, 0.4])?, None);
        }
    }
    Ok(())
}

/// A toy problem: y = sin(2 a) b on 16 fixed points.
fn toy(rows: std::ops::Range<usize>) -> Result<[Tensor; 2]> {
    let x: Vec<f32> = wave(32, 0.4)[2 * rows.start..2 * rows.end].to_vec();
    let y = x.chunks(2).map(|p| (2.0 * p[0]).sin() * p[1]).collect();
    let n = rows.len();
    Ok([Tensor::f32([n, 2], x)?, Tensor::f32([n, 1], y)?])
}

fn mlp(device: &Device, rows: usize, set: impl FnOnce(TrainerBuilder) -> TrainerBuilder) -> Result<Trainer> {
    let mut params = Params::new(5);
    let layers = [(2, 16), (16, 16), (16, 1)]
        .iter()
        .enumerate()
        .map(|(i, (a, b))| Linear::new(&mut params, &format!("layers.{i}"), *a, *b, true))
        .collect::<Vec<_>>();
    params.add("unused", [3], Init::Ones);
    let builder = Trainer::builder(device, params, AdamW::default().lr(0.02).weight_decay(1e-3));
    set(builder).compile_blocking(move |g, p| {
        let x = g.input("x", TensorType::f32([rows, 2]));
        let y = g.input("y", TensorType::f32([rows, 1]));
        let mut h = x;
        for (i, layer) in layers.iter().enumerate() {
            h = layer.forward(p, h);
            if i < 2 {
                h = h.tanh();
            }
        }
        (h - y).square().mean_all()
    })
}

#[test]
fn an_mlp_learns_the_same_everywhere() -> Result<()> {
    let [x, y] = toy(0..16)?;
    let mut curves: Vec<Vec<f32>> = Vec::new();
    for device in common::devices() {
        let mut trainer = mlp(&device, 16, |b| b.clip(1.0))?;
        let mut curve = Vec::new();
        for _ in 0..200 {
            trainer.step(&[("x", &x), ("y", &y)])?;
            curve.push(trainer.loss_blocking()?);
        }
        assert!(curve[199] < 0.02 * curve[0], "{device}: {curve:?}");
        curves.push(curve);
    }
    for other in &curves[1..] {
        for (step, (a, b)) in curves[0].iter().zip(other).enumerate() {
            assert!((a - b).abs() < 1e-3, "step {step}: {a} and {b}");
        }
    }
    Ok(())
}

#[test]
fn micro_batches_are_one_batch() -> Result<()> {
    for device in common::devices() {
        let [x, y] = toy(0..16)?;
        let mut whole = mlp(&device, 16, |b| b)?;
        let mut parts = mlp(&device, 4, |b| b.accumulate(4))?;
        for _ in 0..5 {
            whole.step(&[("x", &x), ("y", &y)])?;
            for i in 0..4 {
                let [x, y] = toy(4 * i..4 * i + 4)?;
                parts.step(&[("x", &x), ("y", &y)])?;
            }
            let (a, b) = (whole.report_blocking()?, parts.report_blocking()?);
            assert!((a.loss - b.loss).abs() < 1e-5, "{a:?} {b:?}");
            assert!((a.grad_norm - b.grad_norm).abs() < 1e-5, "{a:?} {b:?}");
        }
        for (a, b) in values(&whole)?.iter().zip(values(&parts)?) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        // A bad micro-batch spoils its step and none after it.
        let before = values(&parts)?;
        let bad = Tensor::f32([4, 2], vec![f32::NAN; 8])?;
        let [x, y] = toy(0..4)?;
        for turn in 0..4 {
            parts.step(&[("x", if turn == 1 { &bad } else { &x }), ("y", &y)])?;
        }
        assert!(matches!(parts.loss_blocking(), Err(Error::NotFinite { .. })));
        assert_eq!(values(&parts)?, before);
        for _ in 0..4 {
            parts.step(&[("x", &x), ("y", &y)])?;
        }
        parts.loss_blocking()?;
        assert_ne!(values(&parts)?, before);
    }
    Ok(())
}

#[test]
fn one_dispatch_a_shard_updates_in_place() -> Result<()> {
    let trainer = linear_loss(&Device::cpu(), AdamW::default(), |b| b)?;
    let plan = trainer.plans().next().map(|p| p.program().clone());
    let Some(program) = plan else { return Ok(()) };
    let names: Vec<&str> = program.steps.iter().map(|s| s.op.name()).collect();
    assert_eq!(names.iter().filter(|n| **n == "adamw").count(), 2);
    // Nothing is copied: neither before the updates nor into the states after them.
    assert!(!names.contains(&"assign") && !names.contains(&"reshape"), "{names:?}");
    Ok(())
}

#[test]
fn settings_are_checked() -> Result<()> {
    let device = Device::cpu();
    let refused = |o: Optimizer, f: fn(TrainerBuilder) -> TrainerBuilder| {
        linear_loss(&device, o, f).map(|_| ()).unwrap_err().to_string()
    };
    let adam = || Optimizer::from(Adam::default());
    assert!(refused(Adam::default().betas(1.0, 0.9).into(), |b| b).contains("beta1"));
    assert!(refused(Adam::default().lr(f64::NAN).into(), |b| b).contains("learning rate"));
    assert!(refused(Sgd::default().nesterov(true).into(), |b| b).contains("momentum"));
    assert!(refused(adam(), |b| b.clip(-1.0)).contains("norm"));
    assert!(refused(adam(), |b| b.accumulate(0)).contains("micro"));
    assert!(refused(adam(), |b| b.group("none", Group::default())).contains("none"));
    let mut trainer = linear_loss(&device, adam(), |b| b)?;
    assert!(trainer.loss_blocking().is_err());
    let [ga, _] = gradients(0)?;
    assert!(matches!(trainer.step(&[("ga", &ga)]), Err(Error::Name { .. })));
    assert_eq!(trainer.steps(), 0);
    Ok(())
}

/// Tables get gradients of rows; a memory is carried from step to step, in a store of its own for each stream.
#[test]
fn tables_and_memories() -> Result<()> {
    let mut curves = Vec::new();
    for device in common::devices() {
        let mut params = Params::new(3);
        let table = Embedding::new(&mut params, "tokens", 50, 4);
        let builder = Trainer::builder(&device, params, Sgd::default().lr(0.1));
        let mut trainer = builder.compile_blocking(|g, p| {
            let ids = g.input("ids", TensorType::u32([6]));
            let memory = g.state("memory", TensorType::f32([4]));
            let mean = table.forward(p, ids).mean(0).reshape([4]);
            g.assign(memory, memory * 0.5 + mean.stop_gradient());
            (mean - memory - 1.0).square().sum_all()
        })?;
        let streams = [Store::new(&device), Store::new(&device)];
        for s in &streams {
            s.set_zeros("memory", &TensorType::f32([4]))?;
        }
        let before = trainer.params().value("tokens.weight")?;
        let ids = Tensor::u32([6], vec![3, 7, 3, 49, 0, 3])?;
        let mut curve = Vec::new();
        for step in 0..6 {
            trainer.step_with(&[("ids", &ids)], &[&streams[step % 2]])?;
            curve.push(trainer.loss_blocking()?);
        }
        let after = pollster::block_on(trainer.read_params())?.value("tokens.weight")?;
        for (row, (a, b)) in before.floats().chunks(4).zip(after.floats().chunks(4)).enumerate() {
            assert_eq!(a == b, ![0, 3, 7, 49].contains(&row), "row {row}");
        }
        assert_ne!(streams[0].read_blocking("memory")?, streams[1].read_blocking("memory")?);
        curves.push(curve);
    }
    for other in &curves[1..] {
        assert!(curves[0].iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-4), "{curves:?}");
    }
    Ok(())
}
