//! What goes wrong, and what is left afterwards: typed errors that say what to do, and states as they were before.

use crate::common;
use crate::common::ops::Broken;
use std::panic::{AssertUnwindSafe, catch_unwind};
use wgrad::check::sample as check;
use wgrad::ops::samples;
use wgrad::{Data, Device, Error, Feed, GpuOptions, Graph, Options, Plan, Store, Tensor, TensorType, Var};

pub fn floats(values: &[f32]) -> Tensor {
    Tensor::f32([values.len()], values.to_vec()).expect("as many elements as the shape has")
}

pub fn compile(device: &Device, graph: &Graph, outputs: &[(&str, Var<'_>)]) -> Plan {
    device.compile_blocking(graph, outputs).unwrap_or_else(|e| panic!("{e}"))
}

/// `s = s + x`, with the sum as an output.
pub fn accumulate(graph: &Graph) -> Var<'_> {
    let s = graph.state("s", TensorType::f32([2]));
    let sum = s + graph.input("x", TensorType::f32([2]));
    graph.assign(s, sum);
    sum
}

pub fn store(device: &Device) -> Store {
    let store = Store::new(device);
    store.set("s", &floats(&[1.0, 2.0])).expect("a state");
    store
}

pub fn state(store: &Store) -> Vec<f32> {
    let tensor = store.read_blocking("s").unwrap_or_else(|e| panic!("{e}"));
    tensor.floats().to_vec()
}

#[test]
fn wrong_feeds_are_refused_and_change_nothing() {
    let good = floats(&[10.0, 20.0]);
    let short = floats(&[10.0]);
    let ints = Tensor::u32([2], vec![1, 2]).expect("two elements");
    let mut seen: Vec<Vec<String>> = Vec::new();
    for device in common::devices() {
        let graph = Graph::new();
        let sum = accumulate(&graph);
        let plan = compile(&device, &graph, &[("sum", sum)]);
        let store = store(&device);
        let wrong = Store::new(&device);
        wrong.set("s", &ints).expect("a state");
        let feeds = [
            Feed::new().store(&store),
            Feed::new().store(&store).input("x", &short),
            Feed::new().store(&store).input("x", &ints),
            Feed::new().store(&store).input_f64("x", &[1.0]),
            Feed::new().input("x", &good),
            Feed::new().store(&wrong).input("x", &good),
        ];
        let mut messages = Vec::new();
        for feed in &feeds {
            let error = plan.run(feed).expect_err("a refusal");
            assert!(matches!(error, Error::Name { .. }), "{error}");
            messages.push(error.to_string());
        }
        messages.push(plan.read_blocking("y").expect_err("a refusal").to_string());
        messages.push(store.read_blocking("t").expect_err("a refusal").to_string());
        assert_eq!(state(&store), [1.0, 2.0]);
        // The last input of a name counts; more than the plan needs is no error.
        let feed = Feed::new().store(&wrong).store(&store);
        assert!(plan.run(&feed.input("x", &good)).is_err());
        let feed = Feed::new().store(&store).input("x", &short);
        let feed = feed.input("more", &ints).input("x", &good);
        plan.run(&feed).expect("a run");
        assert_eq!(state(&store), [11.0, 22.0]);
        seen.push(messages);
    }
    for messages in &seen {
        assert_eq!(messages, &seen[0]);
    }
    insta::assert_snapshot!("wrong_feeds", common::listed(&seen[0]));
}

#[test]
fn stores_of_another_device_are_refused() {
    let mut devices = vec![Device::cpu(), Device::cpu_f64()];
    devices.extend(common::gpu().cloned());
    devices.extend(common::fresh(common::options()));
    let x = floats(&[10.0, 20.0]);
    for (i, device) in devices.iter().enumerate() {
        let graph = Graph::new();
        let sum = accumulate(&graph);
        let plan = compile(device, &graph, &[("sum", sum)]);
        for (j, other) in devices.iter().enumerate() {
            let store = store(other);
            let result = plan.run(&Feed::new().store(&store).input("x", &x));
            assert_eq!(result.is_ok(), i == j, "{device}; {other}");
            let want = if i == j { [11.0, 22.0] } else { [1.0, 2.0] };
            assert_eq!(state(&store), want);
        }
    }
}

/// The error of a graph, with what compiling says about it.
fn refused(build: impl FnOnce(&Graph)) -> String {
    let graph = Graph::new();
    build(&graph);
    let error = graph.error().expect("an error");
    // Whatever is built later is inert.
    let more = graph.input("later", TensorType::f32([3])).matmul(graph.full([7], 1.0));
    let more = more.softmax(5).sum(9).concat(&[more], 3).select_index(4, 4).gelu();
    graph.grad(more, &[more]);
    let compiled = Device::cpu().compile_blocking(&graph, &[("more", more)]);
    assert_eq!(compiled.err().map(|e| e.to_string()), Some(error.to_string()));
    error.to_string()
}

#[test]
fn errors_of_building_are_kept_with_their_place() {
    let ty = |n: usize| TensorType::f32([n]);
    let other = Graph::new();
    let foreign = other.input("x", ty(3));
    let mut messages: Vec<String> = Vec::new();
    let mut refuse = |build: &dyn Fn(&Graph)| messages.push(refused(build));
    let line = line!() + 1;
    refuse(&|g| _ = g.input("x", ty(3)) + g.input("y", ty(4)));
    refuse(&|g| _ = g.input("x", ty(3)).matmul(g.input("y", ty(3))));
    refuse(&|g| _ = g.input("x", ty(3)).reshape([4]));
    refuse(&|g| _ = g.input("x", ty(3)).and(1u32));
    refuse(&|g| _ = g.input("x", TensorType::u32([3])).exp());
    refuse(&|g| _ = g.input("x", TensorType::u32([3])).softmax(0));
    refuse(&|g| _ = (g.input("x", ty(3)), g.input("x", ty(4))));
    refuse(&|g| _ = g.full([3], f64::NAN));
    refuse(&|g| _ = g.grad(g.input("x", ty(3)), &[]));
    refuse(&|g| _ = g.grad(g.input("x", TensorType::u32([])), &[]));
    refuse(&|g| _ = g.vjp(&[(g.input("x", ty(3)), g.input("y", ty(2)))], &[]));
    refuse(&|g| g.assign(g.input("x", ty(3)), g.input("y", ty(3))));
    refuse(&|g| g.assign(g.state("s", ty(3)), g.input("y", ty(4))));
    refuse(&|g| (0..2).for_each(|_| g.assign(g.state("s", ty(3)), g.input("y", ty(3)))));
    refuse(&|g| g.gate(g.input("ok", TensorType::u32([1]))));
    refuse(&|g| (0..2).for_each(|i| g.gate(g.full_u32([], i))));
    // A variable of another graph, wherever one is taken.
    refuse(&|g| _ = g.apply(Broken { in_place: false }, &[foreign, foreign]));
    refuse(&|g| _ = g.input("x", ty(3)) + foreign);
    refuse(&|g| g.assign(foreign, foreign));
    refuse(&|g| g.assign(g.state("s", ty(3)), foreign));
    refuse(&|g| g.gate(foreign));
    refuse(&|g| _ = g.grad(foreign.sum_all(), &[]));
    refuse(&|g| _ = g.grad(g.full([], 1.0), &[foreign]));
    refuse(&|g| _ = g.vjp(&[(g.full([3], 1.0), foreign)], &[]));
    assert!(messages[0].ends_with(&format!("tests/engine/faults.rs:{line}")), "{}", messages[0]);
    assert!(other.error().is_none());
    insta::assert_snapshot!("errors_of_building", common::listed(&messages));
}

/// What stands in after an error has no dimensions; the rest of the same call must not count on any.
#[test]
fn an_error_in_the_middle_of_a_call_ends_it() {
    let all = refused(|g| _ = g.einsum("ab->", &[g.input("x", TensorType::u32([2, 3]))]));
    assert!(all.contains("to_f32"), "{all}");
    let apart = refused(|g| _ = g.input("x", TensorType::u32([4, 3, 5, 2])).sum_to([4, 1, 5, 1]));
    assert!(apart.contains("to_f32"), "{apart}");
    // The gradient of attention has none; the slice before it gets nothing.
    refused(|g| {
        let x = g.input("x", TensorType::f32([1, 1, 6, 2]));
        let part = x.slice(2, 1, 4);
        let loss = part.attention(part, part, &Default::default()).out.square().sum_all();
        let slope = g.grad(loss, &[x])[0].dense().expect("a gradient");
        g.grad(slope.square().sum_all(), &[x]);
    });
}

#[test]
fn outputs_are_checked() {
    let (graph, other) = (Graph::new(), Graph::new());
    let x = graph.input("x", TensorType::f32([3]));
    let foreign = other.input("x", TensorType::f32([4]));
    let cpu = Device::cpu();
    let compiled = [
        cpu.compile_blocking(&graph, &[("x", x), ("y", foreign)]),
        cpu.compile_blocking(&graph, &[("x", x), ("y", x), ("x", x.exp())]),
    ];
    let errors = compiled.map(|c| c.err().expect("a refusal").to_string());
    insta::assert_snapshot!("outputs", common::listed(&errors));
}

#[test]
fn nan_and_infinite_inputs_end() {
    for device in common::devices() {
        for sample in samples::all() {
            let compiled = check::Compiled::new(&sample, &device, Options::default());
            let compiled = pollster::block_on(compiled).unwrap_or_else(|e| panic!("{e}"));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let spoil = |t: Tensor| match t.data() {
                    Data::F32(v) => Tensor::f32(t.shape(), vec![bad; v.len()]),
                    Data::U32(_) => Ok(t),
                };
                let inputs = sample.draw(1).expect("inputs").into_iter().map(spoil);
                let inputs: Vec<Tensor> = inputs.collect::<Result<_, _>>().expect("inputs");
                let result = pollster::block_on(compiled.run(&inputs));
                result.unwrap_or_else(|e| panic!("{}: {e}", sample.name));
            }
        }
    }
}

#[test]
fn a_panicking_operation_keeps_the_states() {
    for in_place in [false, true] {
        for device in [Device::cpu(), Device::cpu_f64()] {
            let graph = Graph::new();
            let s = graph.state("s", TensorType::f32([2]));
            let n = graph.state("n", TensorType::u32([2]));
            let x = graph.input("x", TensorType::f32([2]));
            graph.assign(n, n + 1u32);
            graph.assign(s, graph.apply(Broken { in_place }, &[s, x])[0]);
            let late = graph.apply(Broken { in_place: false }, &[x, x])[0];
            let plan = compile(&device, &graph, &[("late", late)]);
            let store = store(&device);
            let one = Tensor::u32([2], vec![1, 1]).expect("two elements");
            store.set("n", &one).expect("a state");
            let (bad, good) = (floats(&[-1.0, 1.0]), floats(&[1.0, 1.0]));
            let feed = || Feed::new().store(&store);
            plan.run(&feed().input("x", &good)).expect("a run");
            for _ in 0..2 {
                let run = AssertUnwindSafe(|| plan.run(&feed().input("x", &bad)));
                assert!(catch_unwind(run).is_err());
                assert_eq!(state(&store), [1.0, 2.0]);
                assert_eq!(store.read_blocking("n").expect("a state").ints().len(), 2);
            }
            plan.run(&feed().input("x", &good)).expect("a run");
            assert_eq!(plan.read_blocking("late").expect("an output"), good);
            assert_eq!(state(&store), [1.0, 2.0]);
        }
    }
}

#[test]
fn a_shader_that_does_not_compile_is_named_each_time() {
    let Some(device) = common::fresh(common::options()) else {
        return;
    };
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([2]));
    let y = graph.apply(Broken { in_place: false }, &[x, x])[0];
    for _ in 0..2 {
        match device.compile_blocking(&graph, &[("y", y)]).err() {
            Some(Error::ShaderCompile { kernel, log, .. }) => {
                assert_eq!(kernel, "broken");
                assert!(log.contains("fn main( {"), "{log}");
            }
            other => panic!("{other:?}"),
        }
    }
    // The device is as good as before.
    let plan = compile(&device, &graph, &[("y", x + 1.0)]);
    plan.run(&Feed::new().input("x", &floats(&[1.0, 2.0]))).expect("a run");
    assert_eq!(plan.read_blocking("y").expect("an output").floats(), [2.0, 3.0]);
}

#[test]
fn an_error_that_nobody_caught_is_said_by_the_next_call() {
    if common::gpu().is_none() {
        return;
    }
    // With the library's own handler, which the other tests replace by one that ends the program.
    let device = Device::gpu_blocking(common::options()).expect("a device");
    let graph = Graph::new();
    let sum = accumulate(&graph);
    let plan = compile(&device, &graph, &[("sum", sum)]);
    let (states, x) = (store(&device), floats(&[10.0, 20.0]));
    let feed = || Feed::new().store(&states).input("x", &x);
    common::make_an_error(&device);
    match plan.run(&feed()) {
        Err(Error::Device { message }) => assert!(message.contains("MAP_READ"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(state(&states), [1.0, 2.0]);
    plan.run(&feed()).expect("it was said once");
    assert_eq!(state(&states), [11.0, 22.0]);
}

#[test]
fn known_failures_of_drivers_are_expected_and_missed() {
    let known = [common::known::Known { adapter: "Some GPU", what: "softmax", reason: "example.org/bug" }];
    let outcomes = |softmax: Option<&str>, sum: Option<&str>| {
        let named = [("softmax", softmax), ("sum", sum)].map(|(n, f)| (n.to_owned(), f.map(str::to_owned)));
        common::known::failures_but(&known, "Some GPU (Vulkan, driver 1)", named)
    };
    assert!(outcomes(Some("wrong by 3"), None).is_empty());
    assert_eq!(outcomes(Some("wrong by 3"), Some("wrong by 4")), ["wrong by 4"]);
    let passes = outcomes(None, None);
    assert!(passes.len() == 1 && passes[0].contains("take it out"), "{passes:?}");
    let elsewhere = common::known::failures_but(&known, "Another GPU", [("softmax".into(), Some("wrong".into()))]);
    assert_eq!(elsewhere, ["wrong"]);
    // A declaration of what nothing tries could never be missed.
    let samples: Vec<String> = wgrad::ops::samples::all().into_iter().map(|s| s.name).collect();
    for known in common::known::KNOWN {
        let seed = known.what.strip_prefix("seed ").is_some_and(|n| n.parse::<u64>().is_ok_and(|n| n < 60));
        let tried = seed || common::known::CALLED.contains(&known.what) || samples.iter().any(|s| s == known.what);
        assert!(tried, "nothing is called {}", known.what);
    }
}

#[test]
fn an_unknown_adapter_is_answered_with_those_found() {
    let Some(_) = common::gpu() else { return };
    let options = GpuOptions { adapter: Some("no such adapter".into()), ..Default::default() };
    let error = Device::gpu_blocking(options).expect_err("a refusal");
    let text = error.to_string();
    match error {
        Error::NoAdapter { request, found, .. } => {
            assert_eq!(request, "adapter \"no such adapter\"");
            assert!(!found.is_empty());
            assert!(found.iter().all(|name| text.contains(name)));
        }
        other => panic!("{other}"),
    }
}

/// Runs in a process of its own, without drivers, started by the test below.
#[test]
fn without_drivers() {
    if std::env::var("WGRAD_WITHOUT_DRIVERS").is_err() {
        return;
    }
    let device = Device::auto_blocking().expect("the CPU executor");
    assert!(!device.is_gpu() && device.to_string().starts_with("CPU executor"), "{device}");
    let software = GpuOptions { software: true, ..Default::default() };
    let error = Device::gpu_blocking(software).expect_err("a refusal");
    assert!(matches!(&error, Error::NoAdapter { found, .. } if found.is_empty()), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn without_drivers_the_cpu_executor_is_chosen_aloud() {
    let program = std::env::current_exe().expect("this test");
    let child = std::process::Command::new(program)
        .args(["--exact", "faults::without_drivers"])
        .env("WGRAD_WITHOUT_DRIVERS", "1")
        .env("VK_DRIVER_FILES", "/nonexistent")
        .env("VK_ICD_FILENAMES", "/nonexistent")
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}
