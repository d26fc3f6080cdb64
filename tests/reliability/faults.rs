//! The device is destroyed in the middle of training: what comes next is an error, and a new device goes on from the last
//! snapshot with the same bits.

use crate::{common, run, trainer};
use std::sync::mpsc;
use std::time::Duration;
use wgrad::train::{Snapshot, Trainer};
use wgrad::{Device, Error, Result};

/// What the training does when the device goes.
#[derive(Clone, Copy, Debug)]
enum During {
    Steps,
    ReadBacks,
    Checkpoints,
    Snapshots,
    Compiling,
    Restoring,
    Generating,
}

/// Works until the device is lost.
fn work(device: &Device, during: During, last: &Snapshot, started: &mpsc::Sender<()>) -> Result<()> {
    let mut t = Trainer::restore_blocking(last, device)?;
    started.send(()).expect("somebody listens");
    for step in 10..1_000_000 {
        match during {
            During::Steps => {
                let [x, y] = crate::batch(step)?;
                t.step(&[("x", &x), ("y", &y)])?;
            }
            During::ReadBacks => drop(run(&mut t, step..step + 1)?),
            During::Checkpoints => drop(pollster::block_on(t.to_bytes())?),
            During::Snapshots => drop(t.snapshot_blocking()?),
            During::Compiling => drop(trainer(device, 24 + step)?),
            During::Generating => drop(crate::generate(device, 30)?),
            During::Restoring => drop(Trainer::restore_blocking(last, device)?),
        }
    }
    Ok(())
}

/// A snapshot and a checkpoint after 10 steps, and the losses of 10 more.
fn ten_steps(device: &Device) -> Result<(Snapshot, Vec<u8>, Vec<u32>)> {
    let mut t = trainer(device, 24)?;
    run(&mut t, 0..10)?;
    let (snapshot, bytes) = (t.snapshot_blocking()?, pollster::block_on(t.to_bytes())?);
    Ok((snapshot, bytes, run(&mut t, 10..20)?))
}

#[test]
fn a_lost_device_is_replaced_and_training_goes_on_bit_for_bit() -> Result<()> {
    use During::{Checkpoints, Compiling, Generating, ReadBacks, Restoring, Snapshots, Steps};
    for during in [Steps, ReadBacks, Checkpoints, Snapshots, Compiling, Restoring, Generating] {
        // At several moments of whatever is going on.
        for pause in [0, 3_000, 41_000] {
            let Some(device) = common::fresh(common::options()) else { return Ok(()) };
            let (snapshot, bytes, want) = ten_steps(&device)?;
            let (worker, last) = (device.clone(), snapshot.clone());
            let (started, start) = mpsc::channel();
            let (ended, end) = mpsc::channel();
            std::thread::spawn(move || ended.send(work(&worker, during, &last, &started)));
            start.recv_timeout(Duration::from_secs(60)).expect("the work starts");
            std::thread::sleep(Duration::from_micros(pause));
            device.as_gpu().expect("a GPU").wgpu().0.destroy();
            let result = end.recv_timeout(Duration::from_secs(60));
            let result = result.unwrap_or_else(|_| panic!("{during:?}: the work does not end"));
            assert!(matches!(result, Err(Error::DeviceLost { .. })), "{during:?}: {result:?}");
            let new = common::fresh(common::options()).expect("a device like the first");
            let mut t = Trainer::restore_blocking(&snapshot, &new)?;
            assert_eq!(run(&mut t, 10..20)?, want, "{during:?}");
            let mut t = trainer(&new, 24)?;
            t.from_bytes(bytes)?;
            assert_eq!(run(&mut t, 10..20)?, want, "{during:?}");
        }
    }
    Ok(())
}

/// NaN in data and labels: the step is skipped, whatever it would have changed.
#[test]
fn bad_data_and_labels_change_nothing() -> Result<()> {
    use wgrad::Tensor;
    for device in common::devices() {
        let mut t = trainer(&device, 24)?;
        run(&mut t, 0..3)?;
        let before = pollster::block_on(t.read_params())?;
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for which in 0..2 {
                let mut data = crate::batch(3)?;
                let mut values = data[which].floats().to_vec();
                values[1] = bad;
                data[which] = Tensor::f32(data[which].shape(), values)?;
                t.step(&[("x", &data[0]), ("y", &data[1])])?;
                let loss = t.loss_blocking();
                // Also where tanh saturates: the gradient of the weights is 0 times infinity.
                assert!(matches!(loss, Err(Error::NotFinite { .. })), "{device}, {bad}, {which}: {loss:?}");
                let after = pollster::block_on(t.read_params())?;
                assert!(before.values().eq(after.values()), "{device}, {bad}, {which}");
            }
        }
        // And the next good one is made.
        run(&mut t, 3..4)?;
    }
    Ok(())
}

#[test]
fn child_makes_an_error() {
    if crate::argument().is_none() {
        return;
    }
    let Some(device) = common::fresh(common::options()) else { return };
    common::make_an_error(&device);
    println!("went on");
}

/// Every test program ends, and so fails, at an error of wgpu that nothing caught: also on another thread, also at its end.
#[test]
fn an_error_that_nobody_caught_ends_a_test_program() {
    if common::gpu().is_none() {
        return;
    }
    let out = crate::child("faults::child_makes_an_error", "error").output().expect("a process");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("nobody caught"), "{said}");
    assert!(!String::from_utf8_lossy(&out.stdout).contains("went on"));
}
