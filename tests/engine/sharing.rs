//! Buffers of the caller as inputs and states, buffers of a plan for the caller, and what a device must offer.

use crate::common;
use wgpu::BufferUsages as U;
use wgrad::plan::Program;
use wgrad::{Device, Feed, Graph, Options, Store, Tensor, TensorType, wgpu};

/// A buffer of the tests' device.
fn buffer(device: &Device, values: &[f32], usage: U) -> wgpu::Buffer {
    let (raw, queue) = device.as_gpu().expect("a GPU").wgpu();
    let size = (values.len() * 4) as u64;
    let descriptor =
        wgpu::BufferDescriptor { label: None, size, usage: usage | U::COPY_DST, mapped_at_creation: false };
    let buffer = raw.create_buffer(&descriptor);
    queue.write_buffer(&buffer, 0, bytemuck::cast_slice(values));
    buffer
}

/// What a buffer holds, copied by hand.
fn contents(device: &Device, buffer: &wgpu::Buffer, offset: u64, n: usize) -> Vec<f32> {
    let (raw, queue) = device.as_gpu().expect("a GPU").wgpu();
    let size = (n * 4) as u64;
    let usage = U::MAP_READ | U::COPY_DST;
    let staging = raw.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    let mut encoder = raw.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size);
    queue.submit([encoder.finish()]);
    staging.map_async(wgpu::MapMode::Read, .., |r| r.expect("it is mapped"));
    raw.poll(wgpu::PollType::wait_indefinitely()).expect("the device goes on");
    bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..).expect("it is mapped"))
}

#[test]
fn an_input_lies_in_a_buffer_of_the_caller() {
    let Some(device) = common::fresh(common::options()) else { return };
    let graph = Graph::new();
    let (x, y) = (graph.input("x", TensorType::f32([3])), graph.input("y", TensorType::f32([3])));
    let plan = device.compile_blocking(&graph, &[("sum", x.exp().ln() + y)]).expect("a sound graph");
    let y = Tensor::f32([3], vec![10.0, 20.0, 30.0]).expect("three");
    let ring = [buffer(&device, &[1.0, 2.0, 3.0], U::STORAGE), buffer(&device, &[4.0, 5.0, 6.0, 7.0], U::STORAGE)];
    let counters = || device.as_gpu().expect("a GPU").counters.snapshot();
    let mut before = counters();
    for round in 0..3 {
        if round == 1 {
            plan.read_blocking("sum").expect("the pool of staging buffers");
            before = counters();
        }
        for (x, want) in ring.iter().zip([[11.0, 22.0, 33.0], [14.0, 25.0, 36.0]]) {
            plan.run(&Feed::new().buffer("x", x).input("y", &y)).expect("it runs");
            let sum = plan.read_blocking("sum").expect("an output");
            let near = sum.floats().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-4);
            assert!(near, "{sum:?}");
        }
    }
    let made: Vec<u64> = counters().iter().zip(before).map(|(a, b)| a - b).take(4).collect();
    assert_eq!(made, [0; 4], "buffers, bytes, bind groups, pipelines");
    // Its own buffer afterwards.
    plan.run(&Feed::new().input("x", &y).input("y", &y)).expect("it runs");
    let sum = plan.read_blocking("sum").expect("an output");
    assert!((sum.floats()[2] - 60.0).abs() < 1e-3, "{sum:?}");
}

#[test]
fn buffers_that_do_not_fit_are_refused() {
    let Some(device) = common::gpu() else { return };
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([3]));
    let plan = device.compile_blocking(&graph, &[("y", x.exp())]).expect("a sound graph");
    for bad in [buffer(device, &[1.0, 2.0], U::STORAGE), buffer(device, &[1.0; 3], U::UNIFORM)] {
        let error = plan.run(&Feed::new().buffer("x", &bad)).expect_err("too small, or of another kind").to_string();
        assert!(error.contains("a buffer of"), "{error}");
        let error =
            Store::new(device).adopt("s", &TensorType::f32([3]), bad.clone()).expect_err("the same").to_string();
        assert!(error.contains("at least 12 bytes with the usage STORAGE"), "{error}");
        let store = Store::new(&Device::cpu());
        assert!(store.adopt("s", &TensorType::f32([2]), bad).is_err(), "a store of the CPU executor");
    }
    let cpu = Device::cpu().compile_blocking(&graph, &[("y", x.exp())]).expect("a sound graph");
    let good = buffer(device, &[1.0; 3], U::STORAGE);
    assert!(cpu.run(&Feed::new().buffer("x", &good)).is_err());
    assert!(cpu.buffer("y").is_none());
}

#[test]
fn a_state_lies_in_a_buffer_of_the_caller() {
    let Some(device) = common::gpu() else { return };
    let vertices = buffer(device, &[1.0, 2.0, 3.0, 4.0], U::STORAGE | U::COPY_SRC | U::VERTEX);
    let store = Store::new(device);
    store.adopt("points", &TensorType::f32([2, 2]), vertices.clone()).expect("it fits");
    let graph = Graph::new();
    let points = graph.state("points", TensorType::f32([2, 2]));
    graph.assign(points, points * 2.0);
    let plan = device.compile_blocking(&graph, &[("old", points + 0.0)]).expect("a sound graph");
    let (raw, queue) = device.as_gpu().expect("a GPU").wgpu();
    let mut encoder = raw.create_command_encoder(&Default::default());
    plan.encode(&Feed::new().store(&store), &mut encoder).expect("it is recorded");
    queue.submit([encoder.finish()]);
    assert_eq!(contents(device, &vertices, 0, 4), [2.0, 4.0, 6.0, 8.0]);
    assert_eq!(store.read_blocking("points").expect("it can be copied").floats(), [2.0, 4.0, 6.0, 8.0]);
    assert_eq!(store.get("points").and_then(|s| s.buffer().cloned()), Some(vertices));
    // What the run left in the plan's own memory.
    let old = plan.buffer("old").expect("an output");
    assert_eq!(contents(device, old.buffer(), old.offset(), 4), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(old.size(), 16);
    assert!(plan.buffer("new").is_none());
}

#[test]
fn an_input_is_an_output_too() {
    let Some(device) = common::gpu() else { return };
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([2, 2]));
    let outputs = [("same", x), ("flat", x.reshape([4])), ("turned", x.transpose(0, 1)), ("twice", x * 2.0)];
    let plan = device.compile_blocking(&graph, &outputs).expect("a sound graph");
    let given = buffer(device, &[1.0, 2.0, 3.0, 4.0], U::STORAGE);
    let own = Tensor::f32([2, 2], vec![5.0, 6.0, 7.0, 8.0]).expect("four");
    for (feed, [a, b, c, d]) in [
        (Feed::new().buffer("x", &given), [1.0f32, 2.0, 3.0, 4.0]),
        (Feed::new().input("x", &own), [5.0, 6.0, 7.0, 8.0]),
    ] {
        plan.run(&feed).expect("it runs");
        let read = |name| plan.read_blocking(name).expect("an output").floats().to_vec();
        assert_eq!(read("same"), [a, b, c, d]);
        assert_eq!(read("flat"), [a, b, c, d]);
        assert_eq!(read("turned"), [a, c, b, d]);
        assert_eq!(read("twice"), [2.0 * a, 2.0 * b, 2.0 * c, 2.0 * d]);
        let shared = plan.buffer("flat").expect("an output");
        assert_eq!(contents(device, shared.buffer(), shared.offset(), 4), [a, b, c, d]);
    }
}

#[test]
fn a_buffer_that_is_written_stands_for_nothing_else() {
    let Some(device) = common::gpu() else { return };
    let one = buffer(device, &[1.0, 2.0], U::STORAGE | U::COPY_SRC);
    let store = Store::new(device);
    let ty = TensorType::f32([2]);
    store.adopt("s", &ty, one.clone()).expect("it fits");
    store.adopt("t", &ty, one.clone()).expect("it fits");
    let graph = Graph::new();
    let (s, x) = (graph.state("s", ty.clone()), graph.input("x", ty.clone()));
    graph.assign(s, s + x);
    let plan = device.compile_blocking(&graph, &[]).expect("a sound graph");
    let error = plan.run(&Feed::new().store(&store).buffer("x", &one)).expect_err("x is s").to_string();
    assert!(error.contains("state s") && error.contains("one buffer"), "{error}");
    assert_eq!(contents(device, &one, 0, 2), [1.0, 2.0]);
    // What is only read may be read twice.
    let graph = Graph::new();
    let (s, t, x) = (graph.state("s", ty.clone()), graph.state("t", ty.clone()), graph.input("x", ty));
    let plan = device.compile_blocking(&graph, &[("sum", s + t + x)]).expect("a sound graph");
    plan.run(&Feed::new().store(&store).buffer("x", &one)).expect("it runs");
    assert_eq!(plan.read_blocking("sum").expect("an output").floats(), [3.0, 6.0]);
}

#[test]
fn requirements_are_known_without_a_device() {
    let needed = |rows: usize| {
        let graph = Graph::new();
        let table = graph.state("table", TensorType::f32([rows, 256]));
        let picked = table.gather(graph.input("rows", TensorType::u32([4])));
        let program = Program::build(&graph, &[("y", picked.tanh())], Options::default()).expect("a sound graph");
        program.requirements().expect("it can be lowered")
    };
    let small = needed(1000);
    assert!(small.missing(&wgpu::Limits::default()).is_empty(), "{small}");
    assert_eq!((small.largest_buffer, small.state_bytes), (1_024_000, 1_024_000));
    assert!(small.features.is_empty() && small.storage_buffers == 3 && small.plan_bytes >= 16 + 2 * 4096, "{small}");
    let large = needed(300_000);
    let names: Vec<&str> = large.missing(&wgpu::Limits::default()).iter().map(|m| m.0).collect();
    assert_eq!(names, ["max_storage_buffer_binding_size", "max_buffer_size"], "{large}");
    assert!(large.to_string().contains("307200000, more than the default"), "{large}");
    assert!(large.missing(&large.limits).is_empty());
}
