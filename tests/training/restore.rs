//! Snapshots: a trainer goes on from one, on any device, as if nothing had been. And what follows a bad step.

use crate::common;
use wgrad::graph::Mode;
use wgrad::nn::{Embedding, Linear, Params};
use wgrad::train::{AdamW, Group, NotFinite, RowUpdates, Schedule, Trainer};
use wgrad::{Device, Error, Result, Tensor, TensorType};

const BATCH: usize = 6;

fn batch(call: usize) -> Result<[Tensor; 2]> {
    let ids = (0..BATCH as u32).map(|i| (i * i + 3 * call as u32) % 11).collect();
    let y = (0..BATCH).map(|i| ((i * 5 + call * 3) as f32 * 0.7).sin()).collect();
    Ok([Tensor::u32([BATCH], ids)?, Tensor::f32([BATCH, 1], y)?])
}

/// Everything that is kept somewhere: moments, touches of rows, totals and hits of micro-batches, a memory, random numbers
/// and a schedule by the number of the step.
fn trainer(device: &Device, micro: u32, then: NotFinite) -> Result<Trainer> {
    let mut params = Params::new(7);
    let table = Embedding::new(&mut params, "table", 11, 4);
    let out = Linear::new(&mut params, "out", 4, 1, true);
    params.get_mut("table.weight")?.group("rows");
    let memory = || TensorType::f32([4]);
    Trainer::builder(device, params, AdamW::default().lr(0.05))
        .clip(1.0)
        .accumulate(micro)
        .schedule(Schedule::Cosine { warmup: 2, total: 9, floor: 0.1 })
        .group("rows", Group::default().rows(RowUpdates::PerRow))
        .carry([("memory".to_owned(), memory())])
        .on_not_finite(then)
        .compile_blocking(move |g, p| {
            let y = g.input("y", TensorType::f32([BATCH, 1]));
            let x = table.forward(p, g.input("ids", TensorType::u32([BATCH])));
            let past = g.state("memory", memory());
            g.assign(past, past * 0.5 + x.mean(0).reshape([4]).stop_gradient());
            let h = (x + past).dropout(0.25, 1, Mode::Train);
            (out.forward(p, h) - y).square().mean_all()
        })
}

/// Losses of whole steps, in bits, over some micro-batches.
fn run(trainer: &mut Trainer, calls: std::ops::Range<usize>) -> Result<Vec<u32>> {
    let mut losses = Vec::new();
    for call in calls {
        let [ids, y] = batch(call)?;
        let before = trainer.steps();
        trainer.step(&[("ids", &ids), ("y", &y)])?;
        if trainer.steps() > before {
            losses.push(trainer.loss_blocking()?.to_bits());
        }
    }
    Ok(losses)
}

fn states(trainer: &Trainer) -> Result<Vec<Tensor>> {
    let store = trainer.store();
    store.names().iter().map(|name| store.read_blocking(name)).collect()
}

#[test]
fn a_restored_trainer_goes_on_bit_for_bit_from_any_moment() -> Result<()> {
    for device in common::devices() {
        let other = if device.is_gpu() { common::fresh(common::options()) } else { Some(Device::cpu()) };
        let Some(other) = other else { continue };
        for (micro, at) in [(1, 0), (1, 5), (3, 6), (3, 7), (3, 8)] {
            let mut whole = trainer(&device, micro, NotFinite::Skip)?;
            run(&mut whole, 0..at)?;
            let snapshot = whole.snapshot_blocking()?;
            assert_eq!((snapshot.steps(), snapshot.bytes()), (whole.steps(), whole.store().bytes()));
            let want = run(&mut whole, at..15)?;
            // Twice from one snapshot: it has not changed.
            for device in [&device, &other] {
                let mut restored = Trainer::restore_blocking(&snapshot, device)?;
                assert!(matches!(restored.loss_blocking(), Err(Error::Argument { .. })), "a report of another trainer");
                assert_eq!(run(&mut restored, at..15)?, want, "{device}, {micro}, {at}");
                assert_eq!(states(&restored)?, states(&whole)?);
            }
        }
    }
    Ok(())
}

#[test]
fn a_trainer_moves_between_executors() -> Result<()> {
    let Some(gpu) = common::gpu() else { return Ok(()) };
    for (from, to) in [(gpu, &Device::cpu()), (&Device::cpu(), gpu)] {
        let mut here = trainer(from, 1, NotFinite::Skip)?;
        run(&mut here, 0..4)?;
        let mut there = Trainer::restore_blocking(&here.snapshot_blocking()?, to)?;
        assert_eq!(states(&here)?, states(&there)?);
        let (a, b) = (run(&mut here, 4..9)?, run(&mut there, 4..9)?);
        for (a, b) in a.into_iter().zip(b).map(|(a, b)| (f32::from_bits(a), f32::from_bits(b))) {
            assert!((a - b).abs() < 1e-4, "{a} and {b}");
        }
    }
    Ok(())
}

/// A step with a label that is no number.
fn spoil(trainer: &mut Trainer, call: usize) -> Result<[Tensor; 2]> {
    let [ids, mut y] = batch(call)?;
    let mut labels = y.floats().to_vec();
    labels[2] = f32::NAN;
    y = Tensor::f32([BATCH, 1], labels)?;
    trainer.step(&[("ids", &ids), ("y", &y)])?;
    Ok([ids, y])
}

/// Everything but totals of micro-batches and the count of steps: what a skipped step leaves as it was.
fn kept(trainer: &Trainer) -> Result<Vec<(String, Tensor)>> {
    let names = trainer.store().names().into_iter();
    let names = names.filter(|n| !n.contains("accumulated") && n != "optim/progress");
    names.map(|n| Ok((n.clone(), trainer.store().read_blocking(&n)?))).collect()
}

#[test]
fn a_stopped_training_holds_still_until_it_is_restored() -> Result<()> {
    for device in common::devices() {
        for micro in [1, 2] {
            let mut t = trainer(&device, micro, NotFinite::Stop)?;
            let n = micro as usize;
            // Up to the last micro-batch of the third step: before it the memory moves on.
            run(&mut t, 0..3 * n - 1)?;
            let before = kept(&t)?;
            let bad = spoil(&mut t, 3 * n - 1)?;
            for call in 3 * n..4 * n {
                // Nobody has looked yet: the device goes on in vain.
                let [ids, y] = batch(call)?;
                t.step(&[("ids", &ids), ("y", &y)])?;
            }
            assert!(kept(&t)? == before, "{device}, {micro}");
            let report = t.report_blocking()?;
            assert_eq!((report.ok, report.done, report.skipped), (false, 2, 2));
            let [ids, y] = batch(0)?;
            for said in [t.loss_blocking().map(drop), t.step(&[("ids", &ids), ("y", &y)])] {
                assert!(matches!(said, Err(Error::NotFinite { step: 2, .. })), "{said:?}");
            }
            assert!(t.steps() == 4 && kept(&t)? == before);
            let found = t.first_not_finite_blocking(&[("ids", &bad[0]), ("y", &bad[1])], &[])?;
            assert!(found.is_some_and(|f| f.contains("input \"y\"")));
            // A snapshot or a checkpoint of this moment goes on; the next bad step ends it again.
            let mut restored = Trainer::restore_blocking(&t.snapshot_blocking()?, &device)?;
            let file = pollster::block_on(t.to_bytes())?;
            t.from_bytes(file)?;
            for t in [&mut restored, &mut t] {
                run(t, 4 * n..5 * n)?;
                assert_ne!(kept(t)?, before);
                for call in 5 * n..6 * n {
                    spoil(t, call)?;
                }
                assert!(matches!(t.loss_blocking(), Err(Error::NotFinite { step: 5, node }) if node == "loss"));
            }
        }
    }
    Ok(())
}

#[test]
fn a_skipping_training_goes_on() -> Result<()> {
    for device in common::devices() {
        let mut t = trainer(&device, 1, NotFinite::default())?;
        run(&mut t, 0..2)?;
        let before = kept(&t)?;
        spoil(&mut t, 2)?;
        assert!(matches!(t.loss_blocking(), Err(Error::NotFinite { step: 2, .. })));
        assert_eq!(kept(&t)?, before);
        run(&mut t, 3..5)?;
        let report = t.report_blocking()?;
        assert_eq!((report.done, report.skipped), (4, 1));
        // What one training skipped does not stop another.
        let mut strict = trainer(&device, 1, NotFinite::Stop)?;
        strict.from_bytes(pollster::block_on(t.to_bytes())?)?;
        assert_eq!(run(&mut strict, 5..7)?, run(&mut t, 5..7)?);
    }
    Ok(())
}
