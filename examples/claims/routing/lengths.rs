//! What a routed block and a full one cost at a length, and what a soft top-k is worth there.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::models::conditional::{BlockConfig, ConditionalRoutedTransformerBlock};
use wgrad::nn::Params;
use wgrad::ops::route::soft_top_k::SoftTopK;
use wgrad::{Device, Feed, Graph, Plan, Result, Tensor, TensorType};

/// Features of a token.
const DIM: usize = 32;
/// Of so many tokens one is a query of the heavy branch and goes through the heavy feed-forward; half as many share a key.
/// As in CoLT5 (section 4 of the paper: 1/16 of the queries, 1/8 of the keys).
const SHARE: usize = 16;

/// Seconds of processor time of this process: nothing else that runs on the machine counts.
#[cfg(unix)]
pub fn processor() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// Elsewhere, seconds.
#[cfg(not(unix))]
pub fn processor() -> f64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |t| t.as_secs_f64())
}

fn uniform(seed: u64, shape: [usize; 3]) -> Result<Tensor> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    Tensor::f32(shape, (0..shape.iter().product()).map(|_| rng.random_range(-1.7f32..1.7)).collect())
}

/// Milliseconds of processor time of a run; of a short one the best of three.
fn time(plan: &Plan, feed: &Feed<'_>) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let start = processor();
        plan.run(feed)?;
        best = best.min(1e3 * (processor() - start));
        if best > 500.0 {
            break;
        }
    }
    Ok(best)
}

/// Operations of a token and milliseconds of a block, forward, at so many tokens: one in 16 is heavy, or all are.
pub fn block(n: usize, all: bool, seed: u64) -> Result<[f64; 2]> {
    let heavy = |share: usize| if all { n } else { n / share };
    let mut params = Params::new(seed);
    let mut config = BlockConfig::new(DIM, heavy(SHARE), heavy(SHARE / 2), heavy(SHARE));
    let a = &mut config.attention;
    (a.light_heads, a.light_dim_head, a.light_window_size, a.heavy_heads, a.heavy_dim_head) = (1, 16, 128, 2, 16);
    let block = ConditionalRoutedTransformerBlock::new(&mut params, "block", config)?;
    let (device, graph) = (Device::cpu(), Graph::new());
    let x = graph.input("x", TensorType::f32([1, n, DIM]));
    let y = block.forward(&params.vars(&graph), x, &block.route());
    let plan = device.compile_blocking(&graph, &[("y", y)])?;
    let operations: u64 = plan.explain().dispatches.iter().map(|d| d.operations).sum();
    let (store, x) = (params.store(&device)?, uniform(seed, [1, n, DIM])?);
    Ok([operations as f64 / n as f64, time(&plan, &Feed::new().store(&store).input("x", &x))?])
}

/// Of a soft top-k of a 16th of n scores of deviation 1: how far the sum is from it in percent, by how much of itself the
/// gradient is off that of the exact one in double precision, and milliseconds with the gradient.
pub fn soft_top_k(n: usize, how: &SoftTopK, seed: u64) -> Result<[f64; 3]> {
    let (SoftTopK::Iterations { eps, .. } | SoftTopK::Exact { eps }) = *how;
    let scores = uniform(seed, [1, 1, n])?;
    let weights = uniform(seed + 1000, [1, 1, n])?;
    let k = n / SHARE;
    let plan = |device: &Device, how: &SoftTopK| {
        let graph = Graph::new();
        let input = |name| graph.input(name, TensorType::f32([1, 1, n]));
        let s = input("scores");
        let y = s.soft_top_k(k, how, None);
        let gradient = graph.grad((y * input("weights")).sum_all(), &[s]).into_iter().next();
        let gradient = gradient.and_then(|g| g.dense()).unwrap_or(s);
        device.compile_blocking(&graph, &[("sum", y.sum_all()), ("gradient", gradient)])
    };
    let oracle = plan(&Device::cpu_f64(), &SoftTopK::exact(eps))?;
    oracle.run(&Feed::new().input("scores", &scores).input("weights", &weights))?;
    let right = oracle.read_f64("gradient")?;
    let plan = plan(&Device::cpu(), how)?;
    let ms = time(&plan, &Feed::new().input("scores", &scores).input("weights", &weights))?;
    let sum = f64::from(plan.read_blocking("sum")?.floats()[0]);
    let gradient = plan.read_blocking("gradient")?;
    let off = gradient.floats().iter().zip(&right).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>();
    let all = right.iter().map(|b| b * b).sum::<f64>();
    Ok([100.0 * (sum / k as f64 - 1.0).abs(), (off / all).sqrt(), ms])
}
