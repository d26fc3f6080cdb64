//! An operation with a kernel of your own: a snake activation, `x + sin²(a x) / a` with one `a` a channel (Ziyin et al. 2020,
//! arXiv 2006.08195), forward and backward in WGSL, with a CPU twin, checked, and trained.
//!
//! `cargo run --release --example custom_op`
//!
//! It checks the gradient against differences on every executor there is, compares GPU and CPU, and fits a wave whose
//! frequencies are learned through the operation's own backward kernel.

use wgrad::check::{GradCheck, gradcheck_blocking};
use wgrad::graph::{Cotangent, Vjp};
use wgrad::kernels::CpuCall;
use wgrad::nn::{Init, Params};
use wgrad::ops::custom::Twin;
use wgrad::train::{Adam, Trainer};
use wgrad::types::Real;
use wgrad::{CustomOp, DType, Device, Error, Feed, GpuOptions, Graph, Result, Tensor, TensorType, Var};

/// Both kernels begin alike: one invocation an element, in a grid that may be folded into two dimensions.
const HEAD: &str = "
// #include \"shared/grid.wgsl\"
struct Meta { n: u32, channels: u32 }
fn element(wid: vec3<u32>, wn: vec3<u32>, lid: u32) -> u32 { return 64u * workgroup_index(wid, wn) + lid; }
";

const FORWARD: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> m: Meta;
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = element(wid, wn, lid);
    if (i >= m.n) { return; }
    let rate = a[i % m.channels];
    let s = sin(rate * x[i]);
    y[i] = x[i] + s * s / rate;
}
";

/// What an element of the output's gradient adds to those of `x` and of its channel's `a`.
const BACKWARD: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;
@group(0) @binding(4) var<storage, read_write> da: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = element(wid, wn, lid);
    if (i >= m.n) { return; }
    let rate = a[i % m.channels];
    let s = sin(rate * x[i]);
    let double = sin(2.0 * rate * x[i]);
    dx[i] = g[i] * (1.0 + double);
    da[i] = g[i] * (x[i] * double - s * s / rate) / rate;
}
";

/// The same in plain Rust.
struct Forward;
struct Backward;

impl Twin for Forward {
    fn run<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (x, a) = (call.f(0), call.f(1));
        for (i, y) in call.out(0).iter_mut().enumerate() {
            let (x, a) = (x[i], a[i % a.len()]);
            let s = (a * x).sin();
            *y = x + s * s / a;
        }
    }
}

impl Twin for Backward {
    fn run<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (x, a, g) = (call.f(0), call.f(1), call.f(2));
        let (dx, da) = (call.take(0), call.take(1));
        for i in 0..g.len() {
            let (x, a, g) = (x[i], a[i % a.len()], g[i]);
            let (s, double) = ((a * x).sin(), (T::of(2.0) * a * x).sin());
            dx[i] = g * (T::ONE + double);
            da[i] = g * (x * double - s * s / a) / a;
        }
    }
}

/// The operation on `x [.., channels]` and `a [channels]`; its gradient is the other kernel.
fn snake() -> Result<CustomOp> {
    let words = |out: &[wgrad::Shape]| vec![out[0].numel() as u32, out[0].last().copied().unwrap_or(1).max(1) as u32];
    let backward = CustomOp::builder("snake backward", format!("{HEAD}{BACKWARD}"))
        .inputs([DType::F32; 3])
        .outputs([DType::F32; 2])
        .shapes(|inputs| Ok(vec![inputs[0].clone(), inputs[0].clone()]))
        .uniform(move |_, out| words(out))
        .workgroups(|_, out| out[0].numel().div_ceil(64))
        .cpu(Backward)
        .build()?;
    CustomOp::builder("snake", format!("{HEAD}{FORWARD}"))
        .inputs([DType::F32; 2])
        .outputs([DType::F32])
        .shapes(|inputs| match (inputs[0].last(), &inputs[1][..]) {
            (Some(channels), [rates]) if channels == rates => Ok(vec![inputs[0].clone()]),
            _ => wgrad::error::Refusal::shape("expected x [.., channels] and a [channels]"),
        })
        .uniform(move |_, out| words(out))
        .workgroups(|_, out| out[0].numel().div_ceil(64))
        .vjp(move |cx| gradient(&backward, cx))
        .cpu(Forward)
        .build()
}

fn gradient<'g>(backward: &CustomOp, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
    let Some(g) = cx.cotangent() else { return cx.none() };
    let (x, a) = (cx.inputs[0], cx.inputs[1]);
    let grads = backward.apply(&[x, a, g]);
    // Every element has its own share of the channel's gradient.
    cx.dense([Some(grads[0]), Some(grads[1].sum_to(a.shape()))])
}

/// Numbers between -1 and 1, always the same.
fn noise(shape: &[usize], seed: u32) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let hash = |i: u32| (i ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b).rotate_left(13).wrapping_mul(5);
    Tensor::f32(shape, (0..n as u32).map(|i| hash(i) as f32 / u32::MAX as f32 * 2.0 - 1.0).collect())
}

fn run(device: &Device, op: &CustomOp, x: &Tensor, a: &Tensor) -> Result<Tensor> {
    let graph = Graph::new();
    let y = op.apply(&[graph.input("x", x.ty()), graph.input("a", a.ty())])[0];
    let plan = device.compile_blocking(&graph, &[("y", y)])?;
    plan.run(&Feed::new().input("x", x).input("a", a))?;
    plan.read_blocking("y")
}

/// Fits `x + sin²(3 x) / 3` and others with rates that begin elsewhere.
fn fit(device: &Device, op: &CustomOp) -> Result<()> {
    let mut params = Params::new(0);
    params.add("rates", [4], Init::Constant(1.0));
    let aim = [1.3, 0.8, 1.6, 1.1];
    let x = noise(&[256, 4], 5)?;
    let y = run(device, op, &x, &Tensor::f32([4], aim.to_vec())?)?;
    let mut trainer = Trainer::builder(device, params, Adam::default().lr(2e-2)).compile_blocking(|graph, p| {
        let (x, y) = (graph.input("x", TensorType::f32([256, 4])), graph.input("y", TensorType::f32([256, 4])));
        let found: Var<'_> = op.apply(&[x, p.get("rates")])[0];
        (found - y).square().mean_all()
    })?;
    for _ in 0..300 {
        trainer.step(&[("x", &x), ("y", &y)])?;
    }
    let rates = pollster::block_on(trainer.read_params())?.value("rates")?;
    println!("rates found {:.3?}, aimed at {aim:.3?}; loss {:.1e}", rates.floats(), trainer.loss_blocking()?);
    Ok(())
}

fn main() -> Result<()> {
    // A kernel with a mistake is refused with the line it is in.
    let wrong = CustomOp::builder("wrong", format!("{HEAD}{FORWARD}").replace("rate = a[", "rate = b["))
        .inputs([DType::F32; 2])
        .outputs([DType::F32])
        .workgroups(|_, _| 1)
        .build();
    if let Err(Error::ShaderCompile { line: Some(line), .. }) = wrong {
        println!("a kernel with a mistake in line {line} was refused");
    }
    let op = snake()?;
    let mut devices = vec![Device::cpu_f64(), Device::cpu()];
    devices.extend(Device::gpu_blocking(GpuOptions { software: true, ..Default::default() }).ok());
    let (x, a) = (noise(&[37, 4], 1)?, Tensor::f32([4], vec![0.5, 1.0, 1.5, 2.0])?);
    let want = run(&Device::cpu(), &op, &x, &a)?;
    for device in &devices {
        let check = GradCheck::of(device);
        let worst = gradcheck_blocking(device, check, &[x.clone(), a.clone()], |_, v| op.apply(&[v[0], v[1]]))?;
        let got = run(device, &op, &x, &a)?;
        let off = got.floats().iter().zip(want.floats()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("gradient within {worst:.0e}, output within {off:.0e} of the CPU's: {device}");
    }
    fit(devices.last().unwrap_or(&devices[0]), &op)
}
