//! The same seed and adapter give the same bits: in another process, whatever the number of threads.

use crate::{argument, child, common, generate, run, trainer};
use wgrad::check::sample::{Compiled, difference};
use wgrad::ops::samples;
use wgrad::{Device, Options, Result, Tensor};

/// All bits of some results, in one number (FNV-1a).
fn digest(tensors: &[(String, Tensor)]) -> u64 {
    let bytes = tensors.iter().flat_map(|(_, t)| t.data().bytes().iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Results of every sample, of a training, and of a model that writes.
fn digests(device: &Device) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for sample in samples::all() {
        let compiled = pollster::block_on(Compiled::new(&sample, device, Options::default()))?;
        let results = pollster::block_on(compiled.run(&sample.draw(1)?))?;
        all.push(format!("{}: {:x}", sample.name, digest(&results)));
    }
    all.push(format!("training: {:x?}", run(&mut trainer(device, 24)?, 0..30)?));
    all.push(format!("generation: {:?}", generate(device, 60)?));
    Ok(all)
}

#[test]
fn child_says_its_bits() -> Result<()> {
    let Some(which) = argument() else { return Ok(()) };
    let device = if which == "gpu" { common::fresh(common::options()) } else { Some(Device::cpu()) };
    for line in device.map(|d| digests(&d)).transpose()?.unwrap_or_default() {
        println!("= {line}");
    }
    Ok(())
}

fn bits(which: &str, threads: &str) -> Vec<String> {
    let out =
        child("repeat::child_says_its_bits", which).env("RAYON_NUM_THREADS", threads).output().expect("a process");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    text.lines().filter_map(|l| l.split_once("= ")).map(|(_, l)| l.to_owned()).collect()
}

#[test]
fn the_bits_do_not_depend_on_process_or_threads() {
    let one = bits("cpu", "1");
    assert!(one.len() > 100, "{one:?}");
    for threads in ["2", "7"] {
        let several = bits("cpu", threads);
        assert_eq!(several.len(), one.len());
        for (a, b) in several.iter().zip(&one) {
            assert_eq!(a, b, "{threads} threads");
        }
    }
    if common::gpu().is_some() {
        let first = bits("gpu", "2");
        assert!(first.len() == one.len());
        let second = bits("gpu", "2");
        assert_eq!(second.len(), first.len());
        for (a, b) in second.iter().zip(&first) {
            assert_eq!(a, b);
        }
    }
}

/// How far the adapter's results are from those of the CPU executor: `cargo test -- --nocapture` shows them.
#[test]
fn differences_between_executors_are_measured() -> Result<()> {
    let Some(gpu) = common::gpu() else { return Ok(()) };
    let mut all = Vec::new();
    for sample in samples::all() {
        let inputs = sample.draw(1)?;
        let mut results = Vec::new();
        for device in [&Device::cpu(), gpu] {
            let compiled = pollster::block_on(Compiled::new(&sample, device, Options::default()))?;
            results.push(pollster::block_on(compiled.run(&inputs))?);
        }
        let pairs = results[0].iter().zip(&results[1]);
        let worst = pairs.map(|((_, a), (_, b))| difference(a, b)).fold(0.0, f64::max);
        assert!(worst <= 2.0 * sample.tolerance, "{}: {worst:e}", sample.name);
        if !sample.vanishing {
            all.push((worst, sample.name));
        }
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let same = all.iter().filter(|d| d.0 == 0.0).count();
    println!("{gpu}: of {} samples {same} have the same bits as on the CPU executor", all.len());
    let (middle, largest) = (all[all.len() / 2].0, &all[all.len() - 1]);
    println!("median difference {middle:.1e}, largest {largest:?}");
    Ok(())
}
