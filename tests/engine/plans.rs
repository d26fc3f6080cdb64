//! What the planner promises: fewer steps, less memory, the same numbers.

use crate::common;
use crate::common::ops::Run;
use crate::states::state;
use wgrad::graph::Gradient;
use wgrad::plan::Program;
use wgrad::{Device, Feed, Graph, Options, Plan, Store, Tensor, TensorType, Var};

pub const PLAIN: Options = Options { fuse: false, reuse: false };

pub fn floats(values: &[f32]) -> Tensor {
    Tensor::f32([values.len()], values.to_vec()).expect("as many elements as the shape has")
}

/// Deterministic values in (-1, 1).
fn noise(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let wave = (0..n).map(|i| (i as f32 * 12.9898).sin()).collect();
    Tensor::f32(shape, wave).expect("as many elements as the shape has")
}

pub fn compile(device: &Device, graph: &Graph, outputs: &[(&str, Var<'_>)]) -> Plan {
    device.compile_blocking(graph, outputs).unwrap_or_else(|e| panic!("{e}"))
}

fn dense<'g>(gradients: Vec<Gradient<'g>>) -> Vec<Var<'g>> {
    let dense = gradients.iter().map(|g| g.dense());
    dense.map(|g| g.expect("the loss depends on it")).collect()
}

const SHAPES: [(&str, &[usize]); 4] = [("w1", &[16, 32]), ("b1", &[32]), ("w2", &[32, 4]), ("b2", &[4])];

/// One step of gradient descent on two layers; the loss.
fn mlp(graph: &Graph, recompute: bool) -> Var<'_> {
    let x = graph.input("x", TensorType::f32([8, 16]));
    let y = graph.input("y", TensorType::f32([8, 4]));
    let p: Vec<Var<'_>> = SHAPES.iter().map(|(n, s)| graph.state(n, TensorType::f32(*s))).collect();
    let layer = || (x.matmul(p[0]) + p[1]).gelu().tanh();
    let hidden = if recompute { graph.recompute(layer) } else { layer() };
    let error = hidden.matmul(p[2]) + p[3] - y;
    let loss = error.square().mean_all();
    for (p, g) in p.iter().zip(dense(graph.grad(loss, &p))) {
        graph.assign(*p, *p - 0.1 * g);
    }
    loss
}

fn parameters(device: &Device) -> Store {
    let store = Store::new(device);
    for (name, shape) in SHAPES {
        store.set(name, &noise(shape)).expect("a parameter");
    }
    store
}

#[test]
fn printed_plan() {
    let graph = Graph::new();
    let loss = mlp(&graph, false);
    let program = Program::build(&graph, &[("loss", loss)], Options::default()).expect("a plan");
    insta::assert_snapshot!("mlp_step", program.to_string());
}

#[test]
fn options_trade_steps_and_memory() {
    let graph = Graph::new();
    let loss = mlp(&graph, false);
    let build = |o| Program::build(&graph, &[("loss", loss)], o).expect("a plan");
    let (best, plain) = (build(Options::default()), build(PLAIN));
    assert!(best.steps.len() < plain.steps.len());
    let (best, plain) = (best.slots(None), plain.slots(None));
    assert!(best.peak < plain.peak);
    assert!(best.peak < best.unshared);
    assert_eq!(plain.peak, plain.unshared);
}

#[test]
fn training_lowers_the_loss_alike_everywhere() {
    let (x, y) = (noise(&[8, 16]), noise(&[8, 4]));
    let mut last: Vec<f32> = Vec::new();
    for device in common::devices() {
        for options in [Options::default(), PLAIN] {
            let graph = Graph::new();
            let loss = mlp(&graph, false);
            let outputs = [("loss", loss)];
            let compiled = device.compile_with(&graph, &outputs, options);
            let plan = pollster::block_on(compiled).expect("a plan");
            let store = parameters(&device);
            let feed = || Feed::new().store(&store).input("x", &x).input("y", &y);
            plan.run(&feed()).expect("a step");
            let first = plan.read_blocking("loss").expect("a loss").floats()[0];
            for _ in 0..30 {
                plan.run(&feed()).expect("a step");
            }
            let loss = plan.read_blocking("loss").expect("a loss").floats()[0];
            assert!(loss < 0.5 * first, "{loss} after {first} on {device}");
            last.push(loss);
        }
    }
    for loss in &last {
        assert!((loss - last[0]).abs() < 1e-4 * last[0].abs().max(0.01), "{last:?}");
    }
}

#[test]
fn nothing_is_made_after_the_first_run() {
    let Some(device) = common::fresh(common::options()) else {
        return;
    };
    let gpu = device.as_gpu().expect("a GPU");
    let graph = Graph::new();
    let loss = mlp(&graph, false);
    let plan = compile(&device, &graph, &[("loss", loss)]);
    let store = parameters(&device);
    let (x, y) = (noise(&[8, 16]), noise(&[8, 4]));
    let feed = || Feed::new().store(&store).input("x", &x).input("y", &y);
    plan.run(&feed()).expect("the first run");
    let before = gpu.counters.snapshot();
    for step in 0..50 {
        plan.run(&feed().step(step, 1)).expect("a run");
    }
    let after = gpu.counters.snapshot();
    assert_eq!(before[..4], after[..4]);
    assert_eq!(before[4] + 50, after[4]);
}

/// Six layers; the loss and its gradient with respect to the input.
fn deep(graph: &Graph, recompute: bool) -> [Var<'_>; 2] {
    let start = graph.input("x", TensorType::f32([64, 48]));
    let mut x = start;
    for i in 0..6 {
        let w = graph.input(&format!("w{i}"), TensorType::f32([48, 48]));
        let layer = || {
            let y = x.matmul(w).tanh();
            (y.softmax(1) * 40.0).matmul(w).tanh() + y
        };
        x = if recompute { graph.recompute(layer) } else { layer() };
    }
    let loss = x.square().mean_all();
    [loss, dense(graph.grad(loss, &[start]))[0]]
}

#[test]
fn recomputation_changes_memory_only() {
    let x = noise(&[64, 48]);
    let weights: Vec<(String, Tensor)> = (0..6).map(|i| (format!("w{i}"), noise(&[48, 48]))).collect();
    for device in common::devices() {
        let mut results = Vec::new();
        for recompute in [false, true] {
            let graph = Graph::new();
            let [loss, gradient] = deep(&graph, recompute);
            let plan = compile(&device, &graph, &[("loss", loss), ("gradient", gradient)]);
            let mut feed = Feed::new().input("x", &x);
            for (name, w) in &weights {
                feed = feed.input(name, w);
            }
            plan.run(&feed).expect("a run");
            results.push((
                plan.read_blocking("loss").expect("a loss"),
                plan.read_blocking("gradient").expect("a gradient"),
            ));
            let program = plan.program();
            let peak = program.slots(None).peak;
            let printed = plan.to_string().contains("peak without recomputation");
            assert_eq!(printed, recompute);
            if let Some(kept) = program.peak_without_recomputation {
                assert!(peak < kept, "{peak} bytes, without recomputation {kept}");
            }
        }
        assert_eq!(results[0], results[1], "on {device}");
    }
}

#[test]
fn a_panic_while_building_ends_the_recomputed_segment() {
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([3]));
    let build = || graph.recompute(|| panic!("a defect of the caller"));
    let caught: Result<(), _> = std::panic::catch_unwind(std::panic::AssertUnwindSafe(build));
    assert!(caught.is_err());
    let gradient = dense(graph.grad(x.exp().sum_all(), &[x]));
    let program = Program::build(&graph, &[("g", gradient[0])], Options::default());
    assert_eq!(program.expect("a plan").peak_without_recomputation, None);
}

#[test]
fn second_derivatives() {
    let device = Device::cpu_f64();
    let graph = Graph::new();
    let ty = TensorType::f32([2, 3]);
    let x = graph.input("x", ty.clone());
    let v = graph.input("v", ty);
    let y = x.tanh().matmul(x.transpose(0, 1)).softmax(1) * x.sum(1);
    let gradient = dense(graph.grad((y.exp() + y.gelu()).sum_all(), &[x]))[0];
    let hessian = dense(graph.grad((gradient * v).sum_all(), &[x]))[0];
    let plan = compile(&device, &graph, &[("g", gradient), ("hv", hessian)]);
    let at = [0.3, -0.7, 1.1, 0.2, 0.9, -0.4];
    let v = [0.5, 0.1, -0.3, 0.8, -0.6, 0.2];
    let run = |t: f64| {
        let moved: Vec<f64> = at.iter().zip(&v).map(|(x, v)| x + t * v).collect();
        let feed = Feed::new().input_f64("x", &moved).input_f64("v", &v);
        plan.run(&feed).expect("a run");
        (plan.read_f64("g").expect("g"), plan.read_f64("hv").expect("hv"))
    };
    let h = 1e-5;
    let ((more, _), (less, _), (_, exact)) = (run(h), run(-h), run(0.0));
    for ((a, b), exact) in more.iter().zip(&less).zip(exact) {
        let numeric = (a - b) / (2.0 * h);
        assert!((numeric - exact).abs() < 1e-6, "{numeric} and {exact}");
    }
}

#[test]
fn equal_work_is_done_once_and_dead_work_never() {
    let steps = |build: &dyn for<'g> Fn(Var<'g>) -> Var<'g>| {
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([40, 40]));
        let out = build(x);
        let program = Program::build(&graph, &[("out", out)], PLAIN);
        program.expect("a plan").steps.len()
    };
    assert_eq!(steps(&|x| x.matmul(x).exp()), 2);
    assert_eq!(steps(&|x| x.matmul(x) + x.matmul(x)), 2);
    let dead = |x: Var<'_>| x.softmax(1).matmul(x).rank();
    assert_eq!(steps(&|x| x.exp() * dead(x) as f64), 2);
}

// Plans, stores, threads and encoders.

/// Counts in a state.
fn counter(graph: &Graph) {
    let n = state(graph, "n", 1);
    graph.assign(n, n + 1.0);
}

#[test]
fn one_plan_runs_with_two_stores() {
    for device in common::devices() {
        let graph = Graph::new();
        counter(&graph);
        let plan = compile(&device, &graph, &[]);
        let stores = [Store::new(&device), Store::new(&device)];
        for store in &stores {
            store.set("n", &floats(&[0.0])).expect("a state");
        }
        for i in 0..9 {
            let feed = Feed::new().store(&stores[usize::from(i % 3 == 0)]);
            plan.run(&feed).expect("a run");
        }
        let read = |s: &Store| s.read_blocking("n").expect("a state").floats()[0];
        assert_eq!([read(&stores[0]), read(&stores[1])], [6.0, 3.0]);
    }
}

#[test]
fn two_plans_share_a_store_on_two_threads() {
    for device in common::devices() {
        // Each plan names the states in another order.
        let plan = |first: &str, second: &str| {
            let graph = Graph::new();
            let (a, b) = (state(&graph, first, 64), state(&graph, second, 64));
            graph.assign(a, a + 1.0);
            graph.assign(b, b + 1.0);
            compile(&device, &graph, &[])
        };
        let plans = [plan("a", "b"), plan("b", "a")];
        let store = Store::new(&device);
        store.set("a", &floats(&[0.0; 64])).expect("a state");
        store.set("b", &floats(&[0.0; 64])).expect("a state");
        std::thread::scope(|scope| {
            for plan in &plans {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..50 {
                            plan.run(&Feed::new().store(&store)).expect("a run");
                        }
                    });
                }
            }
        });
        for name in ["a", "b"] {
            let read = store.read_blocking(name).expect("a state");
            assert_eq!(read.floats(), [200.0; 64], "{name} on {device}");
        }
    }
}

#[test]
fn inputs_of_two_threads_do_not_mix() {
    for device in common::devices() {
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([1]));
        let (sum, n) = (state(&graph, "sum", 1), x + 0.0);
        graph.assign(sum, sum + n);
        let plan = compile(&device, &graph, &[]);
        let store = Store::new(&device);
        store.set("sum", &floats(&[0.0])).expect("a state");
        std::thread::scope(|scope| {
            for value in [1.0, 1000.0] {
                let (plan, store) = (&plan, &store);
                scope.spawn(move || {
                    let x = floats(&[value]);
                    for _ in 0..100 {
                        let feed = Feed::new().store(store).input("x", &x);
                        plan.run(&feed).expect("a run");
                    }
                });
            }
        });
        let sum = store.read_blocking("sum").expect("a state").floats()[0];
        assert_eq!(sum, 100_100.0, "on {device}");
    }
}

#[test]
fn plans_devices_and_stores_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Plan>();
    crosses::<Device>();
    crosses::<Store>();
    crosses::<wgrad::Error>();
    crosses::<Tensor>();
}

/// Keeps the step numbers of its runs: `history = history * 1000 + step`.
fn history(graph: &Graph) {
    let run = graph.apply(Run, &[])[0];
    let h = graph.state("history", TensorType::u32([3]));
    graph.assign(h, h * graph.full_u32([3], 1000) + run);
}

#[test]
fn a_plan_is_encoded_twice_into_one_encoder() {
    let zero = Tensor::u32([3], vec![0; 3]).expect("three elements");
    let store = |device: &Device| {
        let store = Store::new(device);
        store.set("history", &zero).expect("a state");
        store
    };
    let graph = Graph::new();
    history(&graph);
    let seed = (5 << 32) + 4;
    let want = [3007, 4006, 5005];
    // The CPU executor runs, and says that it cannot encode.
    let cpu = Device::cpu();
    let plan = compile(&cpu, &graph, &[]);
    let states = store(&cpu);
    plan.run(&Feed::new().store(&states).step(3, seed)).expect("a run");
    plan.run(&Feed::new().store(&states).step(7, (5 << 32) + 6)).expect("a run");
    assert_eq!(states.read_blocking("history").expect("a state").ints(), want);
    let Some(device) = common::gpu() else { return };
    let (queue_device, queue) = device.as_gpu().expect("a GPU").wgpu();
    let mut encoder = queue_device.create_command_encoder(&Default::default());
    let refused = plan.encode(&Feed::new().store(&states), &mut encoder);
    assert!(matches!(refused, Err(wgrad::Error::Argument { .. })));
    let plan = compile(device, &graph, &[]);
    let states = store(device);
    plan.encode(&Feed::new().store(&states).step(3, seed), &mut encoder).expect("the first encoding");
    plan.encode(&Feed::new().store(&states).step(7, (5 << 32) + 6), &mut encoder).expect("the second encoding");
    queue.submit([encoder.finish()]);
    assert_eq!(states.read_blocking("history").expect("a state").ints(), want);
    // As often as one likes, with runs in between, which are submitted before.
    let graph = Graph::new();
    let (sum, bits) = (graph.state("sum", TensorType::u32([2])), graph.random_bits([2], 1));
    graph.assign(sum, sum * graph.full_u32([2], 3) + bits);
    let plan = compile(device, &graph, &[]);
    let states = || {
        let store = Store::new(device);
        store.set("sum", &Tensor::u32([2], vec![0; 2]).expect("two elements")).expect("a state");
        store
    };
    let (encoded, run, beside) = (states(), states(), states());
    let mut encoder = queue_device.create_command_encoder(&Default::default());
    for step in 0..150 {
        plan.encode(&Feed::new().store(&encoded).step(step, seed), &mut encoder).expect("an encoding");
        plan.run(&Feed::new().store(&run).step(step, seed)).expect("a run");
        plan.run(&Feed::new().store(&beside).step(7, 8)).expect("a run");
    }
    queue.submit([encoder.finish()]);
    let sum = |store: &Store| store.read_blocking("sum").expect("a state").ints().to_vec();
    assert_eq!(sum(&encoded), sum(&run));
    assert_ne!(sum(&encoded), sum(&beside));
}

/// Numbers are written into the kernels that use them; they are no steps of their own.
#[test]
fn constants_are_no_steps() {
    for fuse in [false, true] {
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([5]));
        let y = (x * 2.0 + 1.0).tanh();
        let options = Options { fuse, reuse: true };
        let program = Program::build(&graph, &[("y", y)], options).unwrap();
        assert_eq!(program.steps.len(), if fuse { 1 } else { 3 }, "{program}");
        // One that several kernels use stands in each of them, and by itself no more.
        let c = graph.full([5], 2.0);
        let y = (x + c).softmax(0) * c;
        let program = Program::build(&graph, &[("y", y)], options).unwrap();
        assert_eq!(program.steps.len(), 3, "{program}");
    }
}

#[test]
fn a_timed_run_is_a_run_and_says_how_long_the_device_took() {
    let graph = Graph::new();
    let x = graph.state("x", TensorType::f32([1000]));
    graph.assign(x, x * 2.0);
    let run = |device: &Device| {
        let plan = compile(device, &graph, &[]);
        let store = Store::new(device);
        store.set("x", &floats(&[3.0; 1000])).expect("a state");
        let time = plan.run_timed_blocking(&Feed::new().store(&store)).expect("a run");
        assert_eq!(store.read_blocking("x").expect("a state").floats(), [6.0; 1000], "{device}");
        assert_eq!(plan.dispatches(), 2, "{device}");
        time
    };
    assert_eq!(run(&Device::cpu()), None);
    for timestamps in [false, true] {
        let Some(device) = common::fresh(wgrad::GpuOptions { timestamps, ..common::options() }) else { return };
        let clock = device.as_gpu().is_some_and(|g| g.wgpu().0.features().contains(wgpu::Features::TIMESTAMP_QUERY));
        let time = run(&device);
        // A driver may give no times; without a clock there are none.
        assert!(time.is_none() || clock, "{device}: {time:?}");
        assert!(timestamps || !clock, "{device}: a clock that nobody asked for");
        assert!(time.is_none_or(|t| t.as_secs() < 60), "{device}: {time:?}");
    }
}
