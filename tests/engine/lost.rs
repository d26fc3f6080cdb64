//! Lost devices: every call says it, none hangs, and a new device goes on.

use crate::common;
use crate::common::ops::Broken;
use crate::faults::{accumulate, compile, floats, state, store};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use wgrad::{Device, Error, Feed, Graph, Plan, Store, Tensor, TensorType};

fn lost<T>(what: &str, result: Result<T, Error>) {
    match result {
        Err(Error::DeviceLost { .. }) => {}
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what} went through on a lost device"),
    }
}

/// Runs `f` on a thread; fails when it does not end.
fn ends<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = send.send(f());
    });
    match receive.recv_timeout(Duration::from_secs(60)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => panic!("the thread sent nothing"),
        },
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a lost device hangs"),
    }
}

/// The loss is known when the work before it is done; until then runs are queued in vain.
fn until_lost(mut run: impl FnMut() -> Result<(), Error>) {
    for _ in 0..100 {
        match run() {
            Ok(()) => std::thread::sleep(Duration::from_millis(10)),
            Err(_) => break,
        }
    }
}

/// `plan` has this output, `states` holds "s".
fn said_by_every_call(device: &Device, plan: &Plan, output: &str, feed: &Feed<'_>, states: &Store) {
    let graph = Graph::new();
    let sum = accumulate(&graph);
    let x = floats(&[0.5, 0.25]);
    for _ in 0..2 {
        lost("run", plan.run(feed));
        lost("read", plan.read_blocking(output));
        lost("compile", device.compile_blocking(&graph, &[("sum", sum)]));
        lost("compile anew", device.compile_blocking(&graph, &[("y", sum.exp())]));
        lost("set", states.set("s", &x));
        lost("set anew", states.set("t", &x));
        lost("zeros", states.set_zeros("u", &TensorType::f32([3])));
        lost("read a state", states.read_blocking("s"));
    }
}

#[test]
fn a_lost_device_is_said_by_every_call_and_a_new_one_goes_on() {
    let Some(device) = common::fresh(common::options()) else {
        return;
    };
    let x = floats(&[0.5, 0.25]);
    let (snapshot, graph) = (state_after(&device, 3), Graph::new());
    let sum = accumulate(&graph);
    let plan = compile(&device, &graph, &[("sum", sum)]);
    let states = store(&device);
    let feed = || Feed::new().store(&states).input("x", &x);
    plan.run(&feed()).expect("a run");
    device.as_gpu().expect("a GPU").wgpu().0.destroy();
    until_lost(|| plan.run(&feed()));
    said_by_every_call(&device, &plan, "sum", &feed(), &states);
    println!("{device} {plan}");
    let new = common::fresh(common::options()).expect("a device like the first");
    let restored = Store::new(&new);
    restored.set("s", &floats(&snapshot)).expect("a state");
    let plan = compile(&new, &graph, &[("sum", sum)]);
    plan.run(&Feed::new().store(&restored).input("x", &x)).expect("a run");
    assert_eq!(state(&restored), state_after(&new, 4));
}

/// The state after some runs without a fault.
fn state_after(device: &Device, runs: usize) -> Vec<f32> {
    let graph = Graph::new();
    accumulate(&graph);
    let plan = compile(device, &graph, &[]);
    let store = store(device);
    let x = floats(&[0.5, 0.25]);
    for _ in 0..runs {
        plan.run(&Feed::new().store(&store).input("x", &x)).expect("a run");
    }
    state(&store)
}

#[test]
fn a_device_lost_in_the_middle_of_work_ends_it() {
    for reads in [false, true] {
        let Some(device) = common::fresh(common::options()) else {
            return;
        };
        let worker = device.clone();
        let (started, start) = mpsc::channel();
        let destroyer = std::thread::spawn(move || {
            start.recv().expect("the work starts");
            std::thread::sleep(Duration::from_millis(30));
            device.as_gpu().expect("a GPU").wgpu().0.destroy();
        });
        let error = ends(move || {
            let graph = Graph::new();
            let x = graph.input("x", TensorType::f32([256, 256]));
            let plan = compile(&worker, &graph, &[("y", x.matmul(x).matmul(x).softmax(1))]);
            let x = Tensor::f32([256, 256], vec![0.1; 1 << 16]).expect("a tensor");
            started.send(()).expect("somebody listens");
            for _ in 0..1_000_000 {
                plan.run(&Feed::new().input("x", &x))?;
                if reads {
                    plan.read_blocking("y")?;
                }
            }
            Ok(())
        });
        lost("a loop of runs", error);
        destroyer.join().expect("the device is destroyed");
    }
}

#[test]
fn an_adopted_device_keeps_its_handlers() {
    if common::gpu().is_none() {
        return;
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let name = std::env::var("WGRAD_TEST_ADAPTER").unwrap_or_default().to_lowercase();
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let fits = |a: &wgpu::Adapter| a.get_info().name.to_lowercase().contains(&name);
    let adapter = adapters.into_iter().find(fits).expect("the adapter of the tests");
    let made = pollster::block_on(adapter.request_device(&Default::default()));
    let (raw, queue) = made.expect("a device");
    let (errors, losses) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = errors.clone();
    raw.on_uncaptured_error(Arc::new(move |_| _ = count.fetch_add(1, Ordering::SeqCst)));
    let count = losses.clone();
    raw.set_device_lost_callback(move |_, _| _ = count.fetch_add(1, Ordering::SeqCst));
    let device = Device::from_wgpu(raw.clone(), queue);
    // The library's own failures are not the owner's.
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([2]));
    let broken = graph.apply(Broken { in_place: false }, &[x, x])[0];
    let refused = device.compile_blocking(&graph, &[("y", broken)]);
    assert!(matches!(refused, Err(Error::ShaderCompile { .. })));
    assert_eq!(errors.load(Ordering::SeqCst), 0);
    // The owner's failures are not the library's.
    common::make_an_error(&device);
    assert_eq!(errors.load(Ordering::SeqCst), 1);
    let plan = compile(&device, &graph, &[("y", x + 1.0)]);
    let input = floats(&[1.0, 2.0]);
    plan.run(&Feed::new().input("x", &input)).expect("a run");
    assert_eq!(plan.read_blocking("y").expect("an output").floats(), [2.0, 3.0]);
    let states = store(&device);
    raw.destroy();
    ends(move || {
        until_lost(|| plan.run(&Feed::new().input("x", &input)));
        said_by_every_call(&device, &plan, "y", &Feed::new().input("x", &input), &states);
    });
    assert_eq!((errors.load(Ordering::SeqCst), losses.load(Ordering::SeqCst)), (1, 1));
}
