//! The edges of what devices offer: portable limits, large grids, refusals with numbers, empty tensors, many dimensions.

use crate::common;
use wgrad::check::sample as check;
use wgrad::error::Refusal;
use wgrad::graph::{Cotangent, Op, Vjp};
use wgrad::kernels::{Capabilities, CpuCall, Lower};
use wgrad::ops::samples;
use wgrad::plan::Program;
use wgrad::{Device, Error, Feed, GpuOptions, Graph, Options, Store, Tensor, TensorType, Var};

fn portable() -> Option<Device> {
    common::fresh(GpuOptions { portable_limits: true, ..common::options() })
}

/// Compares an elementwise chain with its oracle on every device.
fn agree(name: &str, shape: &[usize], build: fn(Var<'_>) -> Var<'_>) {
    let sample = samples::Sample::new(name, [shape], move |_, x| vec![build(x[0])]);
    for device in common::devices() {
        let worst = check::against_oracle(&sample, &device, Options::default());
        pollster::block_on(worst).unwrap_or_else(|e| panic!("{e} on {device}"));
    }
}

#[test]
fn portable_limits_run_every_sample() {
    let Some(device) = portable() else { return };
    let limits = device.as_gpu().expect("a GPU").limits();
    assert_eq!(limits.max_storage_buffers_per_shader_stage, 8);
    assert_eq!(limits.max_compute_workgroups_per_dimension, 65_535);
    assert_eq!(limits.max_storage_buffer_binding_size, 128 << 20);
    let filter = std::env::var("WGRAD_SAMPLE").unwrap_or_default();
    let samples = samples::all().into_iter().filter(|s| s.name.contains(&filter));
    let outcomes = samples.map(|s| {
        let worst = pollster::block_on(check::against_oracle(&s, &device, Options::default()));
        (s.name.to_string(), worst.err().map(|e| e.to_string()))
    });
    let failures = common::known::failures(&device, outcomes);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn grids_fold_into_two_dimensions() {
    // As many workgroups of 64 invocations with four elements each as one dimension takes, and more; and of one row each.
    agree("65,535 workgroups", &[256 * 65_535], |x| x * 2.0 + 1.0);
    agree("65,536 workgroups", &[256 * 65_535 + 1], |x| x * 2.0 + 1.0);
    agree("70,000 rows", &[70_000, 33], |x| x.softmax(1));
    agree("70,001 sums", &[70_001, 40], |x| x.sum(1));
}

#[test]
fn a_grid_too_large_is_refused() {
    let few = Capabilities { workgroups: 3, ..Capabilities::portable(false) };
    let graph = Graph::new();
    let build = |n: usize| {
        let x = graph.input(&format!("x{n}"), TensorType::f32([n]));
        let program = Program::build(&graph, &[("y", x.exp())], Options::default());
        check::dispatches(&program.expect("a plan"), &few)
    };
    assert_eq!(build(256 * 9).expect("nine workgroups")[0].grid, [3, 3]);
    assert_eq!(build(256 * 4).expect("four workgroups")[0].grid, [2, 2]);
    match build(256 * 10) {
        Err(Error::Limit { needed, available, .. }) => assert_eq!((needed, available), (4, 3)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_binding_too_large_is_refused_before_anything_is_made() {
    let Some(device) = portable() else { return };
    let gpu = device.as_gpu().expect("a GPU");
    let before = gpu.counters.snapshot();
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([33 << 20]));
    let plan = device.compile_blocking(&graph, &[("y", x.exp())]);
    let error = plan.err().expect("a refusal");
    let mut messages = vec![error.to_string()];
    // A buffer over the limit without any binding of that size.
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([65, 1 << 20]));
    let plan = device.compile_blocking(&graph, &[("y", x.slice(0, 3, 1).exp())]);
    let error = plan.err().expect("a refusal");
    messages.push(error.to_string());
    assert_eq!(before, gpu.counters.snapshot());
    let store = Store::new(&device);
    let error = store.set_zeros("s", &TensorType::f32([65, 1 << 20]));
    messages.push(error.expect_err("a refusal").to_string());
    assert_eq!(before, gpu.counters.snapshot());
    insta::assert_snapshot!("too_large_for_a_device", common::listed(&messages));
}

#[test]
fn a_binding_of_128_mib_works_and_four_bytes_more_do_not() {
    let Some(device) = portable() else { return };
    let most = 32 << 20;
    for (n, fits) in [(most, true), (most + 1, false)] {
        let graph = Graph::new();
        let s = graph.state("s", TensorType::f32([n]));
        graph.assign(s, s + 2.0);
        let end = s.slice(0, n - 3, 3) * 0.5;
        let plan = match (device.compile_blocking(&graph, &[("end", end)]), fits) {
            (Ok(plan), true) => plan,
            (Err(Error::Limit { needed, available, .. }), false) => {
                assert_eq!((needed, available), ((128 << 20) + 4, 128 << 20));
                continue;
            }
            (other, _) => panic!("{n}: {:?}", other.map(|_| "compiled")),
        };
        let store = Store::new(&device);
        store.set_zeros("s", &TensorType::f32([n])).expect("a state");
        for run in 0..2 {
            plan.run(&Feed::new().store(&store)).expect("a run");
            assert_eq!(plan.read_blocking("end").expect("an output").floats(), [run as f32; 3]);
        }
    }
}

/// Nine storage buffers in one dispatch.
#[derive(Debug)]
struct Nine;

impl Op for Nine {
    fn name(&self) -> &'static str {
        "nine"
    }
    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![inputs[0].clone()])
    }
    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }
    fn cpu_f32(&self, _: &mut CpuCall<'_, f32>) {}
    fn cpu_f64(&self, _: &mut CpuCall<'_, f64>) {}
    fn lower(&self, cx: &mut Lower<'_>) -> wgrad::Result<()> {
        let dispatch = cx.generated("nine", "@compute @workgroup_size(1) fn main() {}");
        (0..8).fold(dispatch, |dispatch, i| dispatch.input(i)).output(0).workgroups(1)
    }
}

#[test]
fn no_dispatch_binds_more_than_eight_storage_buffers() {
    let caps = Capabilities::portable(false);
    let graph = Graph::new();
    let all: Vec<Var<'_>> = (0..20).map(|i| graph.input(&format!("x{i}"), TensorType::f32([33]))).collect();
    let sum = all.iter().skip(1).fold(all[0].exp(), |sum, x| (sum + *x) * 0.9);
    let joined = all[0].concat(&all[1..], 0);
    let program = Program::build(&graph, &[("sum", sum), ("joined", joined)], Options::default());
    let dispatches = check::dispatches(&program.expect("a plan"), &caps).expect("dispatches");
    assert!(dispatches.iter().all(|d| d.bindings.len() <= 8));
    assert!(dispatches.iter().any(|d| d.bindings.len() == 8), "fusion uses what there is");
    // What an operation from outside asks for beyond that is refused.
    let nine = graph.apply(Nine, &all[..8])[0];
    let program = Program::build(&graph, &[("nine", nine)], Options::default());
    match check::dispatches(&program.expect("a plan"), &caps) {
        Err(Error::Limit { limit, needed: 9, available: 8, .. }) => {
            assert_eq!(limit, "maxStorageBuffersPerShaderStage")
        }
        other => panic!("{other:?}"),
    }
    let sample = samples::Sample::new("twenty inputs", [&[33usize][..]; 20], |_, x| {
        let sum = x.iter().skip(1).fold(x[0].exp(), |sum, x| (sum + *x) * 0.9);
        vec![sum, x[0].concat(&x[1..], 0)]
    });
    for device in common::devices().into_iter().chain(portable()) {
        let worst = check::against_oracle(&sample, &device, Options::default());
        pollster::block_on(worst).unwrap_or_else(|e| panic!("{e} on {device}"));
    }
}

#[test]
fn views_begin_at_any_offset() {
    // Bindings begin at multiples of 256 bytes, 64 elements: at one, beside it, and far from it.
    for offset in [0, 1, 2, 63, 64, 65, 127, 128, 129, 191] {
        let sample = samples::Sample::new(format!("offset {offset}"), [&[260usize][..]], move |_, x| {
            let flat = x[0].slice(0, offset, 60);
            let part = flat.reshape([6, 10]);
            let product = part.matmul(part.transpose(0, 1));
            vec![flat.exp(), part.softmax(1), part.sum(0), product, part.transpose(0, 1).contiguous(), flat.cumsum(0)]
        });
        for device in common::devices().into_iter().chain(portable()) {
            let worst = check::against_oracle(&sample, &device, Options::default());
            pollster::block_on(worst).unwrap_or_else(|e| panic!("{e} on {device}"));
        }
    }
}

#[test]
fn more_elements_than_32_bits_number_are_refused() {
    let huge = usize::MAX / 2;
    let refuse = |build: &dyn for<'g> Fn(&'g Graph, Var<'g>) -> Var<'g>| {
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([1, 3]));
        let y = build(&graph, x);
        let sum = y.sum_all() + y.mean(0).max(0).sum_all();
        let compiled = Device::cpu().compile_blocking(&graph, &[("y", sum)]);
        compiled.err().expect("a refusal")
    };
    let limits = [
        refuse(&|g, _| g.input("big", TensorType::u32([1 << 16, 1 << 16])).to_f32()),
        refuse(&|_, x| x.expand([huge, 3])),
        refuse(&|_, x| x.expand([1 << 31, 3])),
        refuse(&|_, x| x.pad(0, huge, huge)),
        refuse(&|_, x| x.pad(1, usize::MAX, 1)),
        refuse(&|_, x| x.dilate(1, usize::MAX)),
        refuse(&|g, _| g.full([1 << 40, 0, 1 << 40], 1.0)),
        refuse(&|g, _| g.full([0, usize::MAX, usize::MAX], 1.0)),
        refuse(&|g, _| g.state("s", TensorType::f32([usize::MAX, 2]))),
        refuse(&|_, x| x.expand([1 << 20, 3]).matmul(x.expand([1 << 20, 3]).transpose(0, 1))),
    ];
    for error in &limits {
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
    let shapes = [
        refuse(&|_, x| x.slice(1, usize::MAX, 0)),
        refuse(&|_, x| x.slice(1, usize::MAX, 1)),
        refuse(&|_, x| x.slice_step(1, 0, 3, usize::MAX)),
        refuse(&|_, x| x.slice_step(1, 2, usize::MAX, 1)),
        refuse(&|_, x| x.slice_step(1, 0, 2, 0)),
        refuse(&|_, x| x.reshape([usize::MAX, usize::MAX])),
        refuse(&|_, x| x.pad(7, 1, 1)),
        refuse(&|_, x| x.sum(7)),
        refuse(&|_, x| x.mean(7)),
        refuse(&|_, x| x.transpose(0, -9)),
        refuse(&|_, x| x.select_index(7, 0)),
        refuse(&|_, x| x.permute(&[1, 1])),
        refuse(&|_, x| x.sum_to([2, 2, 2])),
        refuse(&|_, x| x.concat(&[x], 9)),
    ];
    for error in &shapes {
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    let messages = limits.iter().chain(&shapes).map(|e| e.to_string());
    let messages: Vec<String> = messages.collect();
    insta::assert_snapshot!("too_large_for_32_bits", common::listed(&messages));
    let one = Graph::new();
    let x = one.input("x", TensorType::f32([5]));
    let y = x.slice_step(0, 2, 1, usize::MAX);
    assert_eq!(y.shape(), [1].into());
    assert!(one.error().is_none());
    assert!(Tensor::f32([usize::MAX, 2], vec![]).is_err());
    for device in common::devices() {
        let set = Store::new(&device).set_zeros("s", &TensorType::f32([usize::MAX, 3]));
        assert!(matches!(set, Err(Error::Limit { .. })));
    }
}

#[test]
fn empty_tensors_run_everywhere() {
    for device in common::devices() {
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([128]));
        let none = graph.input("none", TensorType::f32([0, 4]));
        let s = graph.state("s", TensorType::f32([0]));
        graph.assign(s, s.exp());
        // The empty slice lies behind the last element, at an aligned place.
        let end = x.slice(0, 128, 0);
        let outputs = [
            ("end", end),
            ("exp", end.exp()),
            ("joined", x.slice(0, 0, 2).concat(&[end, end.exp()], 0)),
            ("sum", none.sum(0)),
            ("all", none.sum_all()),
            ("product", none.matmul(none.transpose(0, 1))),
            ("inner", none.transpose(0, 1).matmul(none)),
            ("softmax", none.softmax(1)),
            ("filled", graph.full([0, 3], 1.0)),
            ("padded", end.pad(0, 1, 2)),
            ("s", s),
        ];
        let plan = device.compile_blocking(&graph, &outputs);
        let plan = plan.unwrap_or_else(|e| panic!("{e}"));
        let store = Store::new(&device);
        store.set_zeros("s", &TensorType::f32([0])).expect("a state");
        let (x, none) = (Tensor::f32([128], vec![1.0; 128]), Tensor::f32([0, 4], vec![]));
        let (x, none) = (x.expect("a tensor"), none.expect("a tensor"));
        let feed = Feed::new().store(&store).input("x", &x).input("none", &none);
        plan.run(&feed).unwrap_or_else(|e| panic!("{e} on {device}"));
        let read = |name: &str| {
            let tensor = plan.read_blocking(name).unwrap_or_else(|e| panic!("{e} on {device}"));
            (tensor.shape().to_vec(), tensor.floats().to_vec())
        };
        for name in ["end", "exp", "product", "softmax", "filled", "s"] {
            assert_eq!(read(name).1, [0.0; 0], "{name}");
        }
        assert_eq!(read("joined"), (vec![2], vec![1.0, 1.0]));
        assert_eq!(read("sum"), (vec![1, 4], vec![0.0; 4]));
        assert_eq!(read("all"), (vec![], vec![0.0]));
        assert_eq!(read("inner"), (vec![4, 4], vec![0.0; 16]));
        assert_eq!(read("padded"), (vec![3], vec![0.0; 3]));
        assert_eq!(store.read_blocking("s").expect("a state").floats(), [0.0; 0]);
    }
}

/// All dimensions in the other order: none of them merge.
fn reversed(x: Var<'_>) -> Var<'_> {
    let axes: Vec<usize> = (0..x.rank()).rev().collect();
    x.permute(&axes)
}

#[test]
fn eight_dimensions_that_do_not_merge_work_and_nine_are_refused() {
    agree("rank 8", &[2, 3, 2, 1, 2, 3, 2, 3, 2], |x| reversed(x).exp());
    agree("copy of rank 8", &[2, 3, 2, 3, 2, 3, 2, 3], |x| reversed(x).contiguous().softmax(7));
    for device in common::devices() {
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([2; 9]));
        let compiled = device.compile_blocking(&graph, &[("y", reversed(x).exp())]);
        match (device.is_gpu(), compiled) {
            (false, Ok(_)) => {}
            (true, Err(Error::Limit { needed: 9, available: 8, .. })) => {}
            (_, other) => panic!("{:?} on {device}", other.map(|_| "compiled")),
        }
    }
}
