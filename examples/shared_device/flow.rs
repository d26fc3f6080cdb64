//! The model: a network that learns the velocity from noise to a spiral (flow matching, Lipman et al. 2023, arXiv 2210.02747).

use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::nn::{Linear, ParamVars, Params};
use wgrad::train::{Adam, Schedule, Trainer};
use wgrad::{Device, Graph, Tensor, TensorType, Var};

/// Examples of a training step.
const BATCH: usize = 512;
/// Frequencies at which the network sees places and times; without them it learns the sharp arms slowly.
const WAVES: [f64; 3] = [2.0, 4.0, 8.0];

/// The velocity of points at a time: two hidden layers.
pub struct Flow {
    layers: [Linear; 3],
}

impl Flow {
    pub fn new(params: &mut Params) -> Flow {
        let mut layer = |name, inputs, outputs| Linear::new(params, name, inputs, outputs, true);
        Flow { layers: [layer("in", 3 * (1 + 2 * WAVES.len()), 64), layer("hidden", 64, 64), layer("out", 64, 2)] }
    }

    /// Points `[n, 2]` and times `[n, 1]` to velocities `[n, 2]`.
    fn velocity<'g>(&self, p: &ParamVars<'g>, points: Var<'g>, times: Var<'g>) -> Var<'g> {
        let [first, second, last] = &self.layers;
        let place = points.concat(&[times], 1);
        let waves: Vec<Var<'g>> = WAVES.iter().flat_map(|w| [(place * *w).sin(), (place * *w).cos()]).collect();
        let x = first.forward(p, place.concat(&waves, 1)).silu();
        last.forward(p, second.forward(p, x).silu())
    }
}

/// A graph that moves the particles in place by one frame.
pub fn frame(graph: &Graph, flow: &Flow, params: &Params, particles: u32, frames: u32) {
    let n = particles as usize;
    let points = graph.state("particles", TensorType::f32([n, 2]));
    let time = graph.input("time", TensorType::f32([1, 1])).expand([n, 1]);
    let velocity = flow.velocity(&params.vars(graph), points, time);
    graph.assign(points, points + velocity / f64::from(frames));
}

pub fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // Sum of uniform numbers: near enough.
    (0..6).map(|_| rng.random::<f32>() - 0.5).sum::<f32>() * std::f32::consts::SQRT_2
}

/// A point of a spiral with three arms.
fn spiral(rng: &mut ChaCha8Rng) -> [f32; 2] {
    let (along, arm) = (rng.random::<f32>(), rng.random_range(0..3) as f32);
    let angle = 3.5 * along + arm * std::f32::consts::TAU / 3.0;
    let radius = 0.15 + 1.2 * along;
    [radius * angle.cos() + 0.03 * normal(rng), radius * angle.sin() + 0.03 * normal(rng)]
}

pub fn train(device: &Device, flow: &Flow, params: Params, steps: u64) -> Result<Trainer> {
    let schedule = Schedule::Cosine { warmup: 10, total: steps.max(20), floor: 0.05 };
    let builder = Trainer::builder(device, params, Adam::default().lr(1e-2)).schedule(schedule);
    let mut trainer = builder.compile_blocking(|graph, p| {
        let from = graph.input("noise", TensorType::f32([BATCH, 2]));
        let to = graph.input("data", TensorType::f32([BATCH, 2]));
        let time = graph.input("time", TensorType::f32([BATCH, 1]));
        let between = from + (to - from) * time;
        (flow.velocity(p, between, time) - (to - from)).square().mean_all()
    })?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for step in 0..steps {
        let noise = Tensor::f32([BATCH, 2], (0..2 * BATCH).map(|_| normal(&mut rng)).collect())?;
        let data = Tensor::f32([BATCH, 2], (0..BATCH).flat_map(|_| spiral(&mut rng)).collect())?;
        let time = Tensor::f32([BATCH, 1], (0..BATCH).map(|_| rng.random()).collect())?;
        trainer.step(&[("noise", &noise), ("data", &data), ("time", &time)])?;
        if step % 400 == 399 {
            println!("step {}: loss {:.3}", step + 1, trainer.loss_blocking()?);
        }
    }
    Ok(trainer)
}
