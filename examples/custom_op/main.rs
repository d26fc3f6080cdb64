//! An operation with a kernel of your own: a snake activation, `x + sin²(a x) / a` with one `a` a channel (Ziyin et al. 2020,
//! arXiv 2006.08195), forward and backward in WGSL, with a CPU twin, checked, and trained.
//!
//! `cargo run --release --example custom_op`
//!
//! It checks the gradient against differences on every executor there is, compares GPU and CPU, and fits a wave whose
//! frequencies are learned through the operation's own backward kernel.

mod snake;

use wgrad::check::{GradCheck, gradcheck_blocking};
use wgrad::nn::{Init, Params};
use wgrad::train::{Adam, Trainer};
use wgrad::{CustomOp, DType, Device, Error, Feed, GpuOptions, Graph, Result, Tensor, TensorType, Var};

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

fn main() -> anyhow::Result<()> {
    // A kernel with a mistake is refused with the line it is in.
    let wrong = CustomOp::builder("wrong", snake::FORWARD.replace("rate = a[", "rate = b["))
        .inputs([DType::F32; 2])
        .outputs([DType::F32])
        .workgroups(|_, _| 1)
        .build();
    if let Err(Error::ShaderCompile { line: Some(line), .. }) = wrong {
        println!("a kernel with a mistake in line {line} was refused");
    }
    let op = snake::snake()?;
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
    Ok(fit(devices.last().unwrap_or(&devices[0]), &op)?)
}
