//! What a router is for: it learns which tokens need the heavy branch, and the loss falls below that of random routing.

use wgrad::models::conditional::{
    ConditionalRoutedFeedForward, CoordinateDescentRouterConfig, FeedForwardConfig, Route, RouterConfig,
};
use wgrad::nn::Params;
use wgrad::train::{Adam, Trainer};
use wgrad::{Device, Graph, Tensor, Var};

const BATCH: usize = 4;
const N: usize = 256;
const K: usize = 16;
const DIM: usize = 16;

/// A fixed matrix of spread `scale`.
fn fixed(g: &Graph, shape: [usize; 2], scale: f32) -> Var<'_> {
    let values = (0..shape[0] * shape[1]).map(|i| ((i * i + 7 * i) as f32 * 0.61).sin() * scale).collect();
    g.constant(Tensor::f32(shape, values).expect("as many elements as the shape has"))
}

/// Fresh tokens at every step. Of each sequence, the K tokens furthest along a hidden direction have something to compute
/// that is too much for the light branch; of the others 0 is wanted.
fn task(g: &Graph) -> (Var<'_>, Var<'_>) {
    let x = g.normal([BATCH, N, DIM], 100);
    let along = x.matmul(fixed(g, [DIM, 1], 1.0)).reshape([BATCH, N]);
    let chosen = along.top_k(K).indices;
    let marks = g.full([BATCH, K], 1.0).scatter_along(chosen, 1, N).unsqueeze(2);
    (x, marks * (x.matmul(fixed(g, [DIM, DIM], 0.6)).sin() + 1.0))
}

/// Mean loss of the last 20 of `steps` steps.
fn loss(router: CoordinateDescentRouterConfig, random_route: bool, steps: usize) -> f32 {
    let mut params = Params::new(8);
    let config = FeedForwardConfig {
        light_ff_mult: 0.125,
        router: RouterConfig::from(router),
        ..FeedForwardConfig::new(DIM, K)
    };
    let module = ConditionalRoutedFeedForward::new(&mut params, "", config).unwrap_or_else(|e| panic!("{e}"));
    let trainer = Trainer::builder(&Device::cpu(), params, Adam::default().lr(1e-2)).compile_blocking(|g, p| {
        let (x, target) = task(g);
        let out = module.forward(p, x, &Route { random_route, ..module.route() });
        (out - target).square().mean_all()
    });
    let mut trainer = trainer.unwrap_or_else(|e| panic!("{e}"));
    let mut last = Vec::new();
    for _ in 0..steps {
        trainer.step(&[]).unwrap_or_else(|e| panic!("{e}"));
        last.push(trainer.loss_blocking().unwrap_or_else(|e| panic!("{e}")));
    }
    last[steps - 20..].iter().sum::<f32>() / 20.0
}

#[test]
fn a_learned_route_beats_a_random_one() {
    let steps = 1500;
    let learned = loss(CoordinateDescentRouterConfig::default(), false, steps);
    let random = loss(CoordinateDescentRouterConfig::default(), true, steps);
    let published = loss(CoordinateDescentRouterConfig::reference(), false, steps);
    println!("loss after {steps} steps: learned {learned:.4}, random {random:.4}, published defaults {published:.4}");
    assert!(learned < 0.85 * random, "learned {learned}, random {random}");
    assert!(learned < 0.85 * published, "learned {learned}, published {published}");
}
