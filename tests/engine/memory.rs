//! Memory that is limited: what goes beyond is refused with numbers, and nothing has changed.

use crate::common;
use wgrad::nn::{Linear, Params};
use wgrad::train::{AdamW, Trainer};
use wgrad::{Device, Error, Feed, GpuOptions, Graph, Result, Store, Tensor, TensorType};

const MIB: u64 = 1 << 20;

fn limited(bytes: u64) -> Option<Device> {
    common::fresh(GpuOptions { memory_limit: Some(bytes), ..common::options() })
}

/// The numbers of a refusal by the limit.
fn refused<T>(result: Result<T>) -> (u64, u64) {
    match result {
        Err(Error::Limit { limit, needed, available, .. }) if limit == "GpuOptions::memory_limit" => {
            (needed, available)
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("there is no room for it"),
    }
}

/// State `s` of `n` numbers goes up by one; the output is its sum.
fn count(graph: &Graph, n: usize) -> wgrad::Var<'_> {
    let s = graph.state("s", TensorType::f32([n]));
    graph.assign(s, s + 1.0);
    s.sum_all()
}

#[test]
fn states_and_plans_share_the_limit() -> Result<()> {
    let Some(device) = limited(MIB) else { return Ok(()) };
    let gpu = device.as_gpu().expect("a GPU");
    let (few, many) = (TensorType::f32([96 << 10]), TensorType::f32([160 << 10]));
    let store = Store::new(&device);
    store.set_zeros("s", &few)?;
    let (made, own) = (gpu.counters.snapshot(), 384 << 10);
    assert_eq!(gpu.held(), own);
    // One number too many; then exactly all of it.
    let other = Store::new(&device);
    let more = TensorType::f32([(160 << 10) + 1]);
    assert_eq!(refused(other.set_zeros("t", &more)), (MIB + 4, MIB));
    assert_eq!((gpu.held(), gpu.counters.snapshot(), other.names().len()), (own, made, 0));
    other.set_zeros("t", &many)?;
    assert_eq!(gpu.held(), MIB);
    // A plan wants memory too: refused before a pipeline or a buffer is made.
    let graph = Graph::new();
    let sum = count(&graph, 96 << 10);
    let made = gpu.counters.snapshot();
    let (needed, available) = refused(device.compile_blocking(&graph, &[("sum", sum)]));
    assert!(needed > MIB && available == MIB);
    assert_eq!((gpu.held(), gpu.counters.snapshot()), (MIB, made));
    // Room comes back with what is dropped, and results can always be read.
    drop(other);
    let plan = device.compile_blocking(&graph, &[("sum", sum)])?;
    assert_eq!(gpu.held(), own + plan.bytes());
    for run in 0..3 {
        plan.run(&Feed::new().store(&store))?;
        assert_eq!(plan.read_blocking("sum")?.floats(), [run as f32 * (96 << 10) as f32]);
    }
    assert_eq!(store.read_blocking("s")?.floats()[7], 3.0);
    // The plan still binds the state; only with both gone is the memory free.
    drop(store);
    assert_eq!(gpu.held(), own + plan.bytes());
    drop(plan);
    assert_eq!(gpu.held(), 0);
    Ok(())
}

#[test]
fn a_trainer_that_does_not_fit_leaves_nothing() -> Result<()> {
    let make = |device: &Device| {
        let mut params = Params::new(1);
        let layer = Linear::new(&mut params, "layer", 256, 256, true);
        Trainer::builder(device, params, AdamW::default()).compile_blocking(move |g, p| {
            layer.forward(p, g.input("x", TensorType::f32([64, 256]))).square().mean_all()
        })
    };
    let Some(roomy) = limited(1 << 40) else { return Ok(()) };
    let mut first = make(&roomy)?;
    let needed = first.bytes();
    assert_eq!(roomy.as_gpu().map(|gpu| gpu.held()), Some(needed));
    let x = Tensor::f32([64, 256], vec![0.25; 64 * 256])?;
    first.step(&[("x", &x)])?;
    let snapshot = first.snapshot_blocking()?;
    // One byte less than the whole: the states fit, the plan does not. And not even the states.
    for limit in [needed - 1, 1 << 19] {
        let Some(device) = limited(limit) else { return Ok(()) };
        let gpu = device.as_gpu().expect("a GPU");
        for result in [make(&device), Trainer::restore_blocking(&snapshot, &device)] {
            let (needed, available) = refused(result);
            assert!(needed > limit && available == limit, "{needed} {available}");
            assert_eq!((gpu.held(), gpu.counters.snapshot()[3]), (0, 0));
        }
    }
    let Some(exact) = limited(needed) else { return Ok(()) };
    Trainer::restore_blocking(&snapshot, &exact)?.step(&[("x", &x)])?;
    Ok(())
}

#[test]
fn what_no_machine_has_is_refused() -> Result<()> {
    // 1 TiB in tables that each fit a binding, and a plan with values as large; whichever limit says it, it says numbers.
    for device in common::devices() {
        let tables = || (0..16_384).map(|i| (format!("t{i}"), TensorType::f32([16, 1 << 20])));
        let mut params = Params::new(1);
        for (name, _) in tables() {
            params.add(&name, [16, 1 << 20], wgrad::nn::Init::Zeros);
        }
        match params.store(&device) {
            Err(Error::OutOfMemory { requested, peak }) => assert!(peak == 1 << 40 && requested <= peak, "{device}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{device} has a TiB"),
        }
        let graph = Graph::new();
        let outputs: Vec<_> = tables().take(4_096).map(|(n, ty)| (n.clone(), graph.input(&n, ty).exp())).collect();
        let outputs: Vec<_> = outputs.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        match device.compile_blocking(&graph, &outputs) {
            Err(Error::OutOfMemory { requested, .. }) => assert!(requested >= 1 << 36, "{device}: {requested}"),
            other => panic!("{device}: {:?}", other.map(|_| "compiled")),
        }
    }
    Ok(())
}
