//! Conditional routing of long sequences: routers that learn there, memory that stays bounded.

mod common;

use common::modules::{noise, run};
use wgrad::models::conditional::{
    BlockConfig, ConditionalRoutedTransformerBlock, CoordinateDescentRouter, CoordinateDescentRouterConfig, Route,
};
use wgrad::nn::Params;
use wgrad::{Device, Graph, TensorType};

const N: usize = 32_768;
const K: usize = 1_024;
const DIM: usize = 512;

/// How many of the selected tokens of a long sequence have a soft score that moves with their raw one: the straight-through
/// gradient of the others is 0.
fn moving(config: CoordinateDescentRouterConfig) -> (usize, f64) {
    let config = CoordinateDescentRouterConfig { straight_through: false, ..config };
    let mut params = Params::new(1);
    let router = CoordinateDescentRouter::new(&mut params, "", DIM, config).unwrap_or_else(|e| panic!("{e}"));
    let x = noise(&[1, N, DIM], 4);
    let out = run(&Device::cpu(), &params, &[("x", &x)], |p, v| {
        let routed = router.forward(p, v[0], &Route::new(K));
        // Every score weighs differently, so that nothing cancels.
        let loss = (routed.scores * (p.graph().iota([1, K], 1).to_f32() * 0.37).sin()).sum_all();
        let token = p.get("routing_token");
        let grads: Vec<_> = p.graph().grad(loss, &[token]).iter().filter_map(|g| g.dense()).collect();
        [vec![routed.scores], grads].concat()
    });
    let moving = out[0].floats().iter().filter(|y| **y < 1.0 && **y > 1e-6).count();
    let gradient = out.get(1).map_or(0.0, |g| g.floats().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt());
    (moving, gradient)
}

#[test]
fn a_new_router_learns_where_the_published_one_cannot() {
    let (ours, gradient) = moving(CoordinateDescentRouterConfig::default());
    println!("{ours} of {K} scores move, gradient {gradient:.3}");
    assert!(ours > K * 9 / 10 && gradient > 1e-2, "{ours} of {K} scores move, gradient {gradient}");
    let (theirs, gradient) = moving(CoordinateDescentRouterConfig::reference());
    println!("published: {theirs} of {K} scores move, gradient {gradient:.3}");
    assert!(theirs == 0 && gradient == 0.0, "published: {theirs} of {K} scores move, gradient {gradient}");
}

#[test]
fn memory_grows_with_the_length_and_not_with_its_square() {
    let bytes = |n: usize| {
        let mut params = Params::new(1);
        let config = BlockConfig::new(DIM, K, K, K);
        let block = ConditionalRoutedTransformerBlock::new(&mut params, "", config).unwrap_or_else(|e| panic!("{e}"));
        let graph = Graph::new();
        let p = params.vars(&graph);
        let x = graph.input("x", TensorType::f32([1, n, DIM]));
        let y = block.forward(&p, x, &block.route());
        let plan = Device::cpu().compile_blocking(&graph, &[("y", y)]).unwrap_or_else(|e| panic!("{e}"));
        println!("block on (1, {n}, {DIM}): {} MiB", plan.bytes() >> 20);
        plan.bytes()
    };
    let (short, long) = (bytes(N / 2), bytes(N));
    assert!(long < short * 5 / 2 && long < 2 << 30, "{short} bytes at {}, {long} at {N}", N / 2);
}

/// Minutes on a software driver, so the CPU executor only; `--ignored` runs it.
#[test]
#[ignore = "half a minute on two cores"]
fn a_block_trains_on_a_long_sequence() {
    let mut params = Params::new(1);
    let config = BlockConfig::new(DIM, K, K, K);
    let block = ConditionalRoutedTransformerBlock::new(&mut params, "", config).unwrap_or_else(|e| panic!("{e}"));
    let x = noise(&[1, N, DIM], 4);
    let start = std::time::Instant::now();
    let out = run(&Device::cpu(), &params, &[("x", &x)], |p, v| {
        let loss = block.forward(p, v[0], &block.route()).square().mean_all();
        let names: Vec<String> = p.names().map(str::to_owned).collect();
        let wrt: Vec<_> = names.iter().map(|name| p.get(name)).collect();
        let grads = p.graph().grad(loss, &wrt);
        let sums = grads.iter().filter_map(|g| g.dense()).map(|g| g.square().sum_all());
        [loss].into_iter().chain(sums).collect()
    });
    println!("{:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(out.len(), 1 + params.len());
    assert!(out.iter().all(|t| t.floats().iter().all(|v| v.is_finite() && *v > 0.0)));
}
