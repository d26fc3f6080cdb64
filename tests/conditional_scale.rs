//! Conditional routing of long sequences: routers that learn there, memory that stays bounded.

mod common;

use common::modules::{assert_close, noise, run};
use wgrad::models::conditional::{
    BlockConfig, ConditionalRoutedCrossAttention, ConditionalRoutedTransformerBlock, CoordinateDescentRouter,
    CoordinateDescentRouterConfig, CrossAttentionConfig, Route,
};
use wgrad::nn::{Params, ShardedType};
use wgrad::{DType, Device, Feed, Graph, Tensor, TensorType};

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

/// Cross attention to two contexts of 50 tokens in pieces of 7 rows.
#[test]
fn a_context_in_pieces_gives_what_a_whole_one_gives() {
    let (m, dim) = (50, 12);
    let old =
        CoordinateDescentRouterConfig { route_block_size: Some(16), ..CoordinateDescentRouterConfig::reference() };
    for (i, router) in [CoordinateDescentRouterConfig::default(), old].into_iter().enumerate() {
        let mut params = Params::new(3);
        let config = CrossAttentionConfig {
            router: router.into(),
            kv_routing_tokens: 2,
            heads: 4,
            dim_head: 6,
            ..CrossAttentionConfig::new(dim, 5, 7)
        };
        let module = ConditionalRoutedCrossAttention::new(&mut params, "", config).unwrap_or_else(|e| panic!("{e}"));
        let ty = ShardedType::with_limit(DType::F32, 2 * m, dim, 7 * 4 * dim as u64).unwrap_or_else(|e| panic!("{e}"));
        let (x, context) = (noise(&[2, 9, dim], 1), noise(&[2, m, dim], 2));
        let mask = common::modules::mask([2, m], |b, i| b == 0 || i % 5 > 0);
        let names: Vec<String> = ty.named("c").map(|(name, _)| name).collect();
        let mut first = 0;
        let mut pieces: Vec<Tensor> = Vec::new();
        for shard in ty.shards() {
            let next = first + shard.numel();
            pieces.push(Tensor::f32(&shard.shape, context.floats()[first..next].to_vec()).expect("a piece"));
            first = next;
        }
        let mut inputs: Vec<(&str, &Tensor)> = vec![("x", &x), ("context", &context), ("mask", &mask)];
        inputs.extend(names.iter().map(String::as_str).zip(&pieces));
        for device in common::devices() {
            let out = run(&device, &params, &inputs, |p, v| {
                let mut route = module.route();
                route.context.mask = Some(v[2]);
                let whole = module.forward(p, v[0], v[1], &route);
                let table = ty.input(p.graph(), "c");
                let cut = module.forward_sharded(p, v[0], &table, m, &route);
                let token = p.get("kv_router.routing_token");
                let mut out = vec![whole, cut];
                for y in [whole, cut] {
                    out.extend(p.graph().grad((y * y.sin()).sum_all(), &[token]).iter().filter_map(|g| g.dense()));
                }
                out
            });
            assert_eq!(out.len(), 4);
            assert_close(&format!("{i} on {device}"), out[0].floats(), out[1].floats());
            assert_close(&format!("gradient {i} on {device}"), out[2].floats(), out[3].floats());
        }
    }
}

/// 1,024 queries to a million memories: the table stays where it is; all else is a few rows of a million scores.
#[test]
fn a_million_memories_take_little_more_than_themselves() {
    let m = 1_000_000;
    let bytes = |dim: usize, pieces: usize, router: CoordinateDescentRouterConfig| {
        let mut params = Params::new(3);
        let config = CrossAttentionConfig {
            kv_routing_tokens: 2,
            router: router.into(),
            route_block_size: Some(131_072),
            ..CrossAttentionConfig::new(dim, 512, K)
        };
        let module = ConditionalRoutedCrossAttention::new(&mut params, "", config).unwrap_or_else(|e| panic!("{e}"));
        let ty = ShardedType::new(DType::F32, m, dim).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ty.shards().len(), pieces);
        let graph = Graph::new();
        let x = graph.input("x", TensorType::f32([1, K, dim]));
        let y = module.forward_sharded(&params.vars(&graph), x, &ty.state(&graph, "memory"), m, &module.route());
        let plan = Device::cpu().compile_blocking(&graph, &[("y", y)]).unwrap_or_else(|e| panic!("{e}"));
        println!("1,024 queries to 1,000,000 memories of {dim}: {} MiB beside the table", plan.bytes() >> 20);
        (params, ty, plan)
    };
    let old = CoordinateDescentRouterConfig::reference();
    assert!(bytes(DIM, 16, old.clone()).2.bytes() < 64 << 20);
    // Cosines take one piece of the table more.
    assert!(bytes(DIM, 16, CoordinateDescentRouterConfig::default()).2.bytes() < 256 << 20);
    let (params, ty, plan) = bytes(64, 2, old);
    let store = params.store(&Device::cpu()).unwrap_or_else(|e| panic!("{e}"));
    ty.set(&store, "memory", |rows| Ok(noise(&[rows.len(), 64], rows.start as u32))).unwrap_or_else(|e| panic!("{e}"));
    let x = noise(&[1, K, 64], 1);
    plan.run(&Feed::new().store(&store).input("x", &x)).unwrap_or_else(|e| panic!("{e}"));
    let y = plan.read_blocking("y").unwrap_or_else(|e| panic!("{e}"));
    assert!(y.floats().iter().all(|v| v.is_finite()) && y.floats().iter().any(|v| *v != 0.0));
}
