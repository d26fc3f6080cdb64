//! The driver itself runs out of memory: a process that may not grow any more. Each test does its work in one of its own.

use crate::{child, common, run, trainer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wgrad::train::Trainer;
use wgrad::{Device, Error, Feed, Graph, Result, Store, Tensor, TensorType};

const MIB: u64 = 1 << 20;

/// Runs `f` while this process may grow by so much and no more.
fn within<T>(bytes: u64, f: impl FnOnce() -> T) -> T {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|l| l.starts_with("VmSize:")).expect("a size");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    let old = getrlimit(Resource::As);
    setrlimit(Resource::As, Rlimit { current: Some(kib * 1024 + bytes), ..old }).expect("a limit");
    let result = f();
    setrlimit(Resource::As, old).expect("no limit");
    result
}

fn full<T>(what: &str, least: u64, result: Result<T>) {
    match result {
        Err(Error::OutOfMemory { requested, peak }) => assert!(requested >= least && peak >= requested, "{what}"),
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: there is no room for it"),
    }
}

#[test]
fn child_runs_out_of_memory() -> Result<()> {
    let Some(which) = crate::argument() else { return Ok(()) };
    let device = if which == "cpu" { Some(Device::cpu()) } else { common::fresh(common::options()) };
    let Some(device) = device else { return Ok(()) };
    let mut t = trainer(&device, 24)?;
    run(&mut t, 0..5)?;
    let snapshot = t.snapshot_blocking()?;
    let store = Store::new(&device);
    let large = TensorType::f32([30 << 20]);
    let graph = Graph::new();
    let sum = graph.input("x", large.clone()).exp().sum_all();
    let inputs = (0..8).map(|i| graph.input(&format!("x{i}"), large.clone()));
    let many = inputs.fold(sum, |sum, x| sum + x.exp().sum_all());
    // wgpu keeps room for a few buffers; one of these states does not get in.
    let states = within(64 * MIB, || (0..8).try_for_each(|i| store.set_zeros(&format!("s{i}"), &large)));
    full("states", 120 * MIB, states);
    drop(store);
    full("a plan", 120 * MIB, within(64 * MIB, || device.compile_blocking(&graph, &[("many", many)])));
    assert!(device.as_gpu().is_none_or(|gpu| gpu.held() == t.bytes()), "nothing of it is held");
    let store = Store::new(&device);
    // All is as before, and there is room again.
    let want = run(&mut t, 5..10)?;
    store.set_zeros("s", &large)?;
    let plan = device.compile_blocking(&graph, &[("sum", sum)])?;
    let x = Tensor::zeros(&large);
    // Bringing the input there takes memory of the driver: the plan, or the device, fails; nothing else.
    let result = within(32 * MIB, || plan.run(&Feed::new().input("x", &x)).and_then(|()| plan.read_blocking("sum")));
    println!("an upload: {:?}", result.as_ref().map(Tensor::floats).map_err(Error::to_string));
    match result {
        Ok(sum) => assert_eq!(sum.floats(), [(30 << 20) as f32], "the CPU executor copies into what it has"),
        Err(Error::OutOfMemory { .. } | Error::DeviceLost { .. }) => assert!(device.is_gpu()),
        Err(other) => panic!("{other}"),
    }
    let device = if which == "cpu" { Device::cpu() } else { common::fresh(common::options()).expect("another") };
    assert_eq!(run(&mut Trainer::restore_blocking(&snapshot, &device)?, 5..10)?, want);
    println!("ran out of memory, and went on");
    Ok(())
}

/// What the child of an adapter says, and whether it went well.
fn outcome(which: &str) -> (bool, String) {
    let mut process = child("memory::child_runs_out_of_memory", which);
    let out = process.env("RUST_BACKTRACE", "0").output().expect("a process");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (out.status.success() && text.contains("and went on"), text)
}

#[test]
fn allocations_that_fail_are_errors_and_change_nothing() {
    let (good, text) = outcome("cpu");
    assert!(good, "{text}");
    let Some(gpu) = common::gpu() else { return };
    let (good, text) = outcome("gpu");
    assert!(good || text.contains("states: there is no room for it"), "{text}");
    let failures = common::known::failures(gpu, [(common::known::CALLED[0].to_owned(), (!good).then_some(text))]);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
