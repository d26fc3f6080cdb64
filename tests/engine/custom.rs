//! Operations with a kernel of the user's own.

use crate::common;
use wgrad::check::{GradCheck, gradcheck_blocking};
use wgrad::error::Refusal;
use wgrad::graph::{Cotangent, Vjp};
use wgrad::kernels::CpuCall;
use wgrad::ops::custom::{CustomOp, CustomOpBuilder, Twin};
use wgrad::types::Real;
use wgrad::{DType, Device, Error, Feed, Graph, Shape, Store, Tensor, TensorType, Var};

/// Sums of neighbouring pairs of a row, times a constant: `[.., n] -> [.., n / 2]`.
const PAIRS: &str = "// #include \"shared/grid.wgsl\"
override SCALE: f32 = 1.0;

struct Meta { n: u32, width: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = 64u * workgroup_index(wid, wn) + lid;
    if (i >= m.n) { return; }
    let at = i / m.width * 2u * m.width + 2u * (i % m.width);
    y[i] = SCALE * (x[at] + x[at + 1u]);
}
";

struct Pairs;

impl Twin for Pairs {
    fn run<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let x = call.f(0);
        let sums = x.chunks_exact(2).map(|pair| T::of(3.0) * (pair[0] + pair[1]));
        call.out(0).iter_mut().zip(sums).for_each(|(y, sum)| *y = sum);
    }
}

fn halved(shapes: &[Shape]) -> Result<Vec<Shape>, Refusal> {
    let mut shape = shapes[0].clone();
    match shape.0.last_mut() {
        Some(last) if last.is_multiple_of(2) => *last /= 2,
        _ => return Refusal::shape("expected rows of pairs"),
    }
    Ok(vec![shape])
}

fn spread<'g>(cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
    let grad = cx.cotangent().map(|g| {
        let mut pairs = g.shape();
        pairs.0.push(1);
        let mut both = pairs.clone();
        *both.0.last_mut().expect("just pushed") = 2;
        (g * 3.0).reshape(pairs).expand(both).reshape(cx.inputs[0].shape())
    });
    cx.dense([grad])
}

fn described(text: &str) -> CustomOpBuilder {
    CustomOp::builder("pairs", text)
        .inputs([DType::F32])
        .outputs([DType::F32])
        .shapes(halved)
        .constant("SCALE", 3.0)
        .uniform(|_, out| vec![out[0].numel() as u32, out[0].last().copied().unwrap_or(1) as u32])
        .workgroups(|_, out| out[0].numel().div_ceil(64))
        .vjp(spread)
}

fn pairs() -> CustomOp {
    described(PAIRS).cpu(Pairs).build().unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn kernels_agree_with_their_twins() {
    let op = pairs();
    for shape in [vec![6usize], vec![3, 4], vec![5, 7, 2], vec![0, 4], vec![70_000, 2]] {
        let x = common::modules::noise(&shape, 3);
        let run = |device: &Device| {
            let graph = Graph::new();
            // Not from the start of its buffer: the planner sees to that.
            let input = graph.input("x", x.ty());
            let y = op.apply(&[input.transpose(0, 0) * 2.0])[0];
            let plan = device.compile_blocking(&graph, &[("y", y)]).unwrap_or_else(|e| panic!("{e}"));
            plan.run(&Feed::new().input("x", &x)).unwrap_or_else(|e| panic!("{e}"));
            plan.read_blocking("y").unwrap_or_else(|e| panic!("{e}"))
        };
        let want = run(&Device::cpu());
        if let Some(device) = common::gpu() {
            common::modules::assert_close(&format!("{shape:?}"), run(device).floats(), want.floats());
        }
    }
}

fn checked(device: &Device, f: impl for<'g> FnOnce(&'g Graph, &[Var<'g>]) -> Vec<Var<'g>>) -> Result<f64, Error> {
    gradcheck_blocking(device, GradCheck::of(device), &[common::modules::noise(&[3, 8], 5)], f)
}

#[test]
fn gradients_are_checked_on_every_executor() {
    let op = pairs();
    // The gradient lacks the factor.
    let wrong = described(PAIRS).cpu(Pairs).vjp(|cx| {
        let all = spread(cx).into_iter().flatten();
        all.map(|g| if let Cotangent::Dense(v) = g { Some((v / 3.0).into()) } else { None }).collect()
    });
    let wrong = wrong.build().unwrap_or_else(|e| panic!("{e}"));
    for device in common::devices().into_iter().chain([Device::cpu_f64()]) {
        let worst = checked(&device, |_, x| vec![op.apply(&[x[0].tanh()])[0].square()]);
        println!("{device}: {worst:?}");
        worst.unwrap_or_else(|e| panic!("on {device}: {e}"));
        let refused = checked(&device, |_, x| vec![wrong.apply(&[x[0].tanh()])[0].square()]);
        assert!(refused.is_err_and(|e| e.to_string().contains("gradient of input 0")), "on {device}");
    }
}

/// Line and words of the error of a spoiled kernel.
fn refused(from: &str, to: &str) -> (Option<u32>, String) {
    assert!(PAIRS.contains(from), "{from}");
    match described(&PAIRS.replacen(from, to, 1)).build() {
        Err(Error::ShaderCompile { kernel, line, log }) => {
            assert_eq!(kernel, "pairs");
            (line, log)
        }
        other => panic!("{from} -> {to}: {other:?}"),
    }
}

#[test]
fn spoiled_kernels_are_refused_with_their_line() {
    let cases = [
        ("grid.wgsl\"", "grid.wgsl\"\n\n\nlet", Some(4), "expected"),
        ("x[at + 1u]);", "x[at + 1u];", Some(18), "expected"),
        ("m.width * 2u * m.width", "m.wide * 2u * m.width", Some(17), "wide"),
        ("let at = i /", "let at = 1.5 /", Some(17), ""),
        ("array<f32>;\n@group(0) @binding(1)", "array<u32>;\n@group(0) @binding(1)", Some(18), ""),
        ("var<storage, read> x", "var<storage, read_write> x", Some(5), "an input"),
        ("@binding(2)", "@binding(3)", Some(7), "bindings 0 to 2"),
        ("@workgroup_size(64)", "@workgroup_size(512)", None, "512 invocations"),
        ("SCALE", "SCALES", Some(18), "SCALE"),
        ("x[at + 1u]);\n}", "x[at + 1u]);", Some(18), "expected"),
        ("fn main", "fn start", None, "main"),
        ("shared/grid.wgsl", "shared/grind.wgsl", Some(1), "unknown include"),
    ];
    for (from, to, line, words) in cases {
        let (found, log) = refused(from, to);
        assert_eq!(found, line, "{from} -> {to}: {log}");
        assert!(log.contains(words), "{from} -> {to}: {log}");
    }
    let (line, log) = refused("read_write> y: array<f32>", "read_write> y: array<atomic<u32>>");
    assert!(line.is_some(), "{log}");
}

#[test]
fn what_is_missing_is_said() {
    let message = |result: Result<CustomOp, Error>| result.map(|_| ()).expect_err("incomplete").to_string();
    let none = CustomOp::builder("none", PAIRS).inputs([DType::F32]);
    assert!(message(none.build()).contains("no outputs"));
    let idle = CustomOp::builder("idle", PAIRS).inputs([DType::F32]).outputs([DType::F32]);
    assert!(message(idle.build()).contains("workgroups"));
    let crowd = CustomOp::builder("crowd", PAIRS).inputs([DType::F32; 8]).outputs([DType::F32]).workgroups(|_, _| 1);
    assert!(message(crowd.build()).contains("9 inputs and outputs"));
    // Without a twin the CPU executor refuses the plan, without a rule for it the gradient is refused.
    let plain = |text: &str| {
        let op = CustomOp::builder("plain", text).inputs([DType::F32]).outputs([DType::F32]).shapes(halved);
        op.uniform(|_, out| vec![out[0].numel() as u32, 1]).workgroups(|_, out| out[0].numel().div_ceil(64))
    };
    let op = plain(PAIRS).build().unwrap_or_else(|e| panic!("{e}"));
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([4]));
    let y = op.apply(&[x])[0];
    let error = Device::cpu().compile_blocking(&graph, &[("y", y)]).err().map(|e| e.to_string());
    assert!(error.is_some_and(|e| e.contains("no CPU twin")));
    graph.grad(y.sum_all(), &[x]);
    assert!(graph.error().is_some_and(|e| e.to_string().contains("gradient of plain")), "{:?}", graph.error());
    // One that the wanted gradient does not pass through needs none.
    let graph = Graph::new();
    let [x, z] = ["x", "z"].map(|name| graph.input(name, TensorType::f32([4])));
    graph.grad((op.apply(&[x])[0].sum_all() * z).sum_all(), &[z]);
    assert!(graph.error().is_none(), "{:?}", graph.error());
    // Wrong inputs are refused where the operation is used.
    for ty in [TensorType::u32([4]), TensorType::f32([3])] {
        let graph = Graph::new();
        let x = graph.input("x", ty);
        let line = line!() + 1;
        op.apply(&[x]);
        let error = graph.error().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(&format!("custom.rs:{line}")), "{error}");
    }
}

#[test]
fn gradients_give_one_cotangent_for_each_input() {
    const SUM: &str = "@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lid: u32) { y[lid] = x[lid] + a[lid]; }";
    for count in 0..4 {
        let op = CustomOp::builder("sum", SUM).inputs([DType::F32; 2]).outputs([DType::F32]).workgroups(|_, _| 1);
        let op = op.vjp(move |cx| cx.dense(vec![cx.cotangent(); count])).build().unwrap_or_else(|e| panic!("{e}"));
        let graph = Graph::new();
        let [x, a] = ["x", "a"].map(|name| graph.input(name, TensorType::f32([64])));
        graph.grad(op.apply(&[x, a])[0].sum_all(), &[x, a]);
        match graph.error() {
            None => assert_eq!(count, 2),
            Some(Error::Argument { what, message }) => {
                assert!(what.starts_with("gradient of sum at ") && what.contains("custom.rs:"), "{what}");
                assert!(
                    message.contains(&format!("expected 2 cotangents, one for each input, got {count}")),
                    "{message}"
                );
            }
            Some(other) => panic!("{count}: {other}"),
        }
    }
}

/// A kernel that takes bits and shares as many words as `WORDS` among its invocations.
const BITS: &str = "@group(0) @binding(0) var<storage, read> x: array<KIND>;
@group(0) @binding(1) var<storage, read_write> y: array<vec2<KIND>>;
var<workgroup> shared_words: array<u32, WORDS>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lid: u32) {
    shared_words[lid] = lid;
    if (lid < arrayLength(&y)) { y[lid] = vec2<KIND>(x[2u * lid], x[2u * lid + 1u]); }
}
";

#[test]
fn kinds_of_elements_and_memory_of_workgroups_are_checked() {
    let build = |kind: &str, words: u32, dtype: DType| {
        let text = BITS.replace("KIND", kind).replace("WORDS", &words.to_string());
        CustomOp::builder("bits", &text).inputs([dtype]).outputs([dtype]).workgroups(|_, _| 1).build()
    };
    for (kind, dtype) in [("f32", DType::F32), ("u32", DType::U32), ("i32", DType::U32)] {
        // All that every device offers, and four bytes more.
        build(kind, 4096, dtype).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let error = build(kind, 4097, dtype).expect_err("too much").to_string();
        assert!(error.contains("16388 bytes of workgroup memory"), "{error}");
    }
    for (kind, dtype) in [("f32", DType::U32), ("u32", DType::F32), ("i32", DType::F32)] {
        let error = build(kind, 64, dtype).expect_err("the other kind").to_string();
        assert!(error.contains("binding 0 holds"), "{error}");
    }
}

/// Reads and writes far beyond both buffers.
const FAR: &str = "
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lid: u32) {
    let at = 64u + lid * 0x3ffffffu;
    y[lid] = x[at];
    y[at] = 777u;
}";

#[test]
fn a_wrong_index_reaches_nothing_of_others() {
    let Some(device) = common::gpu() else { return };
    let far = CustomOp::builder("far", FAR).inputs([DType::U32]).outputs([DType::U32]).workgroups(|_, _| 1).build();
    let far = far.unwrap_or_else(|e| panic!("{e}"));
    let graph = Graph::new();
    let ty = TensorType::u32([64]);
    let x = graph.input("x", ty.clone());
    let kept = x * 3u32 + graph.state("before", ty.clone());
    let y = far.apply(&[x + 1u32])[0];
    let outputs = [("kept", kept), ("y", y), ("after", kept + graph.state("after", ty.clone()))];
    let plan = device.compile_blocking(&graph, &outputs).unwrap_or_else(|e| panic!("{e}"));
    let store = Store::new(device);
    let numbers = |first: u32| Tensor::u32([64], (first..first + 64).collect()).expect("as many as the shape has");
    for (name, first) in [("before", 5_000), ("after", 9_000)] {
        store.set(name, &numbers(first)).expect("a state");
    }
    let input = numbers(1_000);
    plan.run(&Feed::new().store(&store).input("x", &input)).unwrap_or_else(|e| panic!("{e}"));
    let read = |name: &str| plan.read_blocking(name).expect("an output").ints().to_vec();
    // Its own buffers' elements, or nothing.
    for (i, value) in read("y").into_iter().enumerate() {
        assert!([0, 777].contains(&value) || (1_001..1_065).contains(&value), "{i}: {value}");
    }
    for i in 0..64u32 {
        let kept = 3 * (1_000 + i) + 5_000 + i;
        assert_eq!([read("kept")[i as usize], read("after")[i as usize]], [kept, kept + 9_000 + i]);
    }
    for (name, first) in [("before", 5_000), ("after", 9_000)] {
        assert_eq!(store.read_blocking(name).expect("a state"), numbers(first), "{name}");
    }
}
