//! Generic checks of samples, shared by native and browser tests.

use super::{GradCheck, gradcheck};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan};
use crate::graph::{Graph, Var};
use crate::kernels::{Capabilities, Dispatch};
use crate::ops::KERNELS;
use crate::ops::samples::{self, Draw, Sample, values};
use crate::plan::{Options, Program};
use crate::types::{DType, Tensor, TensorType};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Everything a sample computes on one device: outputs, then gradients of `sum(output * cotangent)`.
pub struct Compiled {
    plan: Plan,
    names: Vec<String>,
    inputs: Vec<String>,
    feeds: Vec<(String, Tensor)>,
}

/// A sample's program and what it is fed.
struct Built {
    program: Program,
    names: Vec<String>,
    inputs: Vec<String>,
    feeds: Vec<(String, Tensor)>,
}

/// The program of a sample with its gradients.
fn build(sample: &Sample, options: Options) -> Result<Built> {
    let graph = Graph::new();
    let inputs: Vec<String> = (0..sample.inputs.len()).map(|i| format!("in{i}")).collect();
    let vars: Vec<Var<'_>> = sample.inputs.iter().zip(&inputs).map(|((ty, _), n)| graph.input(n, ty.clone())).collect();
    let outputs = (sample.build)(&graph, &vars);
    let mut named: Vec<(String, Var<'_>)> = Vec::new();
    let mut seeds = Vec::new();
    let mut feeds = Vec::new();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for (i, out) in outputs.iter().enumerate() {
        named.push((format!("out{i}"), *out));
        if sample.differentiable && out.dtype() == DType::F32 {
            let name = format!("cotangent{i}");
            let ty = TensorType::f32(out.shape());
            seeds.push((*out, graph.input(&name, ty.clone())));
            feeds.push((name, values(&ty, Draw::Normal, &mut rng)?));
        }
    }
    if sample.differentiable {
        let floats: Vec<(usize, Var<'_>)> =
            vars.iter().copied().enumerate().filter(|(_, v)| v.dtype() == DType::F32).collect();
        let wrt: Vec<Var<'_>> = floats.iter().map(|(_, v)| *v).collect();
        for ((i, _), grad) in floats.iter().zip(graph.vjp(&seeds, &wrt)) {
            if let Some(grad) = grad.dense() {
                named.push((format!("grad{i}"), grad));
            }
        }
    }
    let outputs: Vec<(&str, Var<'_>)> = named.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let program = Program::build(&graph, &outputs, options)?;
    // An input that nothing uses is not in the plan.
    Ok(Built { program, names: named.iter().map(|(n, _)| n.clone()).collect(), inputs, feeds })
}

/// The program of a sample with its gradients.
pub fn program(sample: &Sample, options: Options) -> Result<Program> {
    Ok(build(sample, options)?.program)
}

/// Everything that a device with these capabilities dispatches for a program.
pub fn dispatches(program: &Program, capabilities: &Capabilities) -> Result<Vec<Dispatch>> {
    Ok(crate::exec::lower(program, capabilities)?.0)
}

impl Compiled {
    /// Compiles a sample with its gradients.
    pub async fn new(sample: &Sample, device: &Device, options: Options) -> Result<Compiled> {
        let built = build(sample, options)?;
        Ok(Compiled {
            plan: device.prepare(Arc::new(built.program)).await?,
            names: built.names,
            inputs: built.inputs,
            feeds: built.feeds,
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs on given inputs and reads everything.
    pub async fn run(&self, inputs: &[Tensor]) -> Result<Vec<(String, Tensor)>> {
        let mut feed = Feed::new().step(3, 11);
        for (n, t) in self.inputs.iter().zip(inputs) {
            feed = feed.input(n, t);
        }
        for (n, t) in &self.feeds {
            feed = feed.input(n, t);
        }
        self.plan.run(&feed)?;
        let mut out = Vec::new();
        for name in &self.names {
            out.push((name.clone(), self.plan.read(name).await?));
        }
        Ok(out)
    }
}

/// Largest difference relative to the largest value (at least 1e-3); integers must be equal.
pub fn difference(a: &Tensor, b: &Tensor) -> f64 {
    if a.ty() != b.ty() {
        return f64::INFINITY;
    }
    if a.ty().dtype == DType::U32 {
        return if a == b { 0.0 } else { f64::INFINITY };
    }
    let scale = b.floats().iter().fold(1e-3f64, |m, x| m.max(f64::from(x.abs())));
    let mut worst = 0.0f64;
    for (x, y) in a.floats().iter().zip(b.floats()) {
        let d = (f64::from(*x) - f64::from(*y)).abs();
        worst = if d.is_nan() { f64::INFINITY } else { worst.max(d / scale) };
    }
    worst
}

/// Compares a device with the oracle; the error names the worst tensor.
pub async fn against_oracle(sample: &Sample, device: &Device, options: Options) -> Result<f64> {
    let inputs = sample.draw(1)?;
    let oracle = Compiled::new(sample, &Device::cpu_f64(), Options { fuse: false, reuse: false }).await?;
    let want = oracle.run(&inputs).await?;
    // The oracle alone would agree with a mistake that both ways share with it.
    let zero = |t: &Tensor| t.ty().dtype == DType::U32 || t.floats().iter().all(|x| x.abs() < 1e-9);
    if let Some((name, t)) = want.iter().find(|(_, t)| sample.vanishing && !zero(t)) {
        let largest = t.floats().iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        return Err(Error::argument(sample.name.clone(), format!("{name} is not 0, but up to {largest:e}")));
    }
    let compiled = Compiled::new(sample, device, options).await?;
    let got = compiled.run(&inputs).await?;
    let again = compiled.run(&inputs).await?;
    if got != again {
        return Err(Error::argument(sample.name.clone(), "two runs differ bit for bit"));
    }
    let mut worst = 0.0f64;
    for ((name, a), (_, b)) in got.iter().zip(&want) {
        let d = difference(a, b);
        if d > sample.tolerance {
            let message = format!("{name} {} differs by {d:.2e}, more than {:.0e}", a.ty(), sample.tolerance);
            return Err(Error::argument(sample.name.clone(), message));
        }
        worst = worst.max(d);
    }
    Ok(worst)
}

/// Name and text of every shader: the hand-written kernels, and what the samples need on hardware and on software
/// drivers. Equal texts appear once; generated ones are numbered.
pub async fn shaders() -> Result<Vec<(String, String)>> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut seen = rustc_hash::FxHashSet::default();
    for kernel in KERNELS {
        let text = kernel.text()?;
        seen.insert(text.clone());
        all.push((kernel.name.to_owned(), text));
    }
    for sample in samples::all() {
        let compiled = Compiled::new(&sample, &Device::cpu(), Options::default()).await?;
        for software in [false, true] {
            for (name, text) in compiled.plan.shaders(&Capabilities::portable(software))? {
                if seen.insert(text.clone()) {
                    all.push((format!("{name} {}", all.len()), text));
                }
            }
        }
    }
    Ok(all)
}

/// Compares a sample's gradients with central differences, in double precision.
pub async fn gradient(sample: &Sample) -> Result<f64> {
    let device = Device::cpu_f64();
    let inputs = sample.draw(1)?;
    let check = gradcheck(&device, GradCheck::of(&device), &inputs, |graph, vars| (sample.build)(graph, vars));
    check.await.map_err(|e| Error::argument(sample.name.clone(), e.to_string()))
}
