//! Gradients against central differences.

use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan};
use crate::graph::{Graph, Var};
use crate::ops::samples::{Draw, values};
use crate::types::{DType, Tensor, TensorType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How [`gradcheck`] compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradCheck {
    /// How far an entry is moved to either side.
    pub step: f64,
    /// Largest difference allowed, relative to the largest entry of the gradient (at least 1e-3).
    pub tolerance: f64,
    /// Entries of each input that are moved alone; all of them are moved together once more, in a random direction, if
    /// there are at most 2,000.
    pub entries: usize,
}

impl GradCheck {
    /// As sharp as the device's precision allows: steps of 1e-6 and a tolerance of 2e-4 in double precision, 1e-2 and 2e-2
    /// in single.
    pub fn of(device: &Device) -> GradCheck {
        match device {
            #[cfg(feature = "oracle")]
            Device::Cpu(Precision::F64) => GradCheck { step: 1e-6, tolerance: 2e-4, entries: 6 },
            Device::Gpu(_) | Device::Cpu(Precision::F32) => GradCheck { step: 1e-2, tolerance: 2e-2, entries: 6 },
        }
    }
}

/// A plan for the outputs, and the gradients of `sum(outputs * weights)` with fixed random weights.
struct Checked {
    plan: Plan,
    weights: Vec<(String, Tensor)>,
    double: bool,
}

/// Names of the inputs.
fn name(i: usize) -> String {
    format!("in{i}")
}

impl Checked {
    async fn new(
        device: &Device,
        inputs: &[Tensor],
        f: impl for<'g> FnOnce(&'g Graph, &[Var<'g>]) -> Vec<Var<'g>>,
    ) -> Result<Checked> {
        let graph = Graph::new();
        let vars: Vec<Var<'_>> = inputs.iter().enumerate().map(|(i, t)| graph.input(&name(i), t.ty())).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (mut named, mut seeds, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (i, out) in f(&graph, &vars).into_iter().enumerate().filter(|(_, o)| o.dtype() == DType::F32) {
            let (weight, ty) = (format!("weight{i}"), TensorType::f32(out.shape()));
            seeds.push((out, graph.input(&weight, ty.clone())));
            weights.push((weight, values(&ty, Draw::Normal, &mut rng)?));
            named.push((format!("out{i}"), out));
        }
        let floats = vars.iter().enumerate().filter(|(_, v)| v.dtype() == DType::F32);
        let (at, wrt): (Vec<usize>, Vec<Var<'_>>) = floats.map(|(i, v)| (i, *v)).unzip();
        let gradients = graph.vjp(&seeds, &wrt);
        named.extend(at.iter().zip(gradients).filter_map(|(i, g)| Some((format!("grad{i}"), g.dense()?))));
        let outputs: Vec<(&str, Var<'_>)> = named.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let plan = device.compile(&graph, &outputs).await?;
        let double = !matches!(device, Device::Gpu(_) | Device::Cpu(Precision::F32));
        Ok(Checked { plan, weights, double })
    }

    /// Runs with input `replaced` moved to `values`; the weighted sum of the outputs.
    async fn loss(&self, inputs: &[Tensor], replaced: usize, values: &[f64]) -> Result<f64> {
        let names: Vec<String> = (0..inputs.len()).map(name).collect();
        let mut feed = Feed::new().step(3, 11);
        for (i, (name, tensor)) in names.iter().zip(inputs).enumerate() {
            feed = if i == replaced { feed.input_f64(name, values) } else { feed.input(name, tensor) };
        }
        for (name, tensor) in &self.weights {
            feed = feed.input(name, tensor);
        }
        self.plan.run(&feed)?;
        let mut loss = 0.0;
        for (name, weights) in &self.weights {
            let out = self.plan.read_double(&name.replace("weight", "out")).await?;
            loss += out.iter().zip(weights.floats()).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
        }
        Ok(loss)
    }

    async fn gradient(&self, input: usize, len: usize) -> Result<Vec<f64>> {
        let name = format!("grad{input}");
        let known = self.plan.program().outputs.iter().any(|(n, _)| *n == name);
        if known { self.plan.read_double(&name).await } else { Ok(vec![0.0; len]) }
    }

    /// The number that the device sees for `x`.
    fn seen(&self, x: f64) -> f64 {
        if self.double { x } else { f64::from(x as f32) }
    }
}

/// Compares the gradients of what `f` builds from `inputs` with central differences: each output is weighted with fixed
/// random numbers, and the weighted sum is moved along single entries and a random direction of each float input. Returns
/// the largest difference relative to the largest entry of a gradient; more than the tolerance is an error that says of
/// which input.
///
/// In double precision ([`Device::cpu_f64`]) this is sharp; on other devices it is as sharp as single precision allows, and
/// finds whole terms that are missing or wrong. Functions with jumps or kinks near the inputs differ without being wrong.
///
/// ```
/// use wgrad::check::{GradCheck, gradcheck_blocking};
/// use wgrad::{Device, Tensor};
///
/// # fn main() -> wgrad::Result<()> {
/// let device = Device::cpu_f64();
/// let x = Tensor::f32([2, 3], vec![0.1, -0.5, 0.3, 1.0, -2.0, 0.7])?;
/// gradcheck_blocking(&device, GradCheck::of(&device), &[x], |_, x| vec![x[0].softmax(1).square()])?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Argument`] if a gradient is off by more than the tolerance, with both values; else as [`Device::compile`]
/// and [`Plan::run`](crate::Plan::run).
pub async fn gradcheck(
    device: &Device,
    check: GradCheck,
    inputs: &[Tensor],
    f: impl for<'g> FnOnce(&'g Graph, &[Var<'g>]) -> Vec<Var<'g>>,
) -> Result<f64> {
    let checked = Checked::new(device, inputs, f).await?;
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut worst = 0.0f64;
    for (i, input) in inputs.iter().enumerate() {
        let n = input.data().len();
        if input.ty().dtype != DType::F32 || n == 0 {
            continue;
        }
        let x: Vec<f64> = input.floats().iter().map(|v| f64::from(*v)).collect();
        checked.loss(inputs, i, &x).await?;
        let gradient = checked.gradient(i, n).await?;
        let scale = gradient.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
        let mut directions: Vec<Vec<(usize, f64)>> =
            (0..check.entries).map(|_| vec![(rng.random_range(0..n), 1.0)]).collect();
        if n <= 2000 {
            directions.push((0..n).map(|j| (j, rng.random::<f64>() - 0.5)).collect());
        }
        for direction in directions {
            let moved = |sign: f64| {
                let mut moved = x.clone();
                direction.iter().for_each(|(j, d)| moved[*j] = checked.seen(x[*j] + sign * check.step * d));
                moved
            };
            let (up, down) = (moved(1.0), moved(-1.0));
            let numeric = checked.loss(inputs, i, &up).await? - checked.loss(inputs, i, &down).await?;
            let entries = || direction.iter().map(|(j, _)| (gradient[*j], up[*j] - down[*j]));
            let exact: f64 = entries().map(|(g, d)| g * d).sum();
            let way = entries().map(|(_, d)| d.abs()).sum::<f64>().max(2.0 * check.step);
            let error = (numeric - exact).abs() / (scale * way);
            if error > check.tolerance || error.is_nan() {
                let (tape, differences) = (exact / way, numeric / way);
                let message = format!("gradient of input {i}: {tape} by the tape, {differences} by differences");
                return Err(Error::argument("gradcheck", message));
            }
            worst = worst.max(error);
        }
    }
    Ok(worst)
}

/// [`gradcheck`], waiting on this thread.
///
/// # Errors
/// As [`gradcheck`].
#[cfg(not(target_arch = "wasm32"))]
pub fn gradcheck_blocking(
    device: &Device,
    check: GradCheck,
    inputs: &[Tensor],
    f: impl for<'g> FnOnce(&'g Graph, &[Var<'g>]) -> Vec<Var<'g>>,
) -> Result<f64> {
    pollster::block_on(gradcheck(device, check, inputs, f))
}
