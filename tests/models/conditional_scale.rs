//! Conditional routing of long sequences: routers that learn there, memory that stays bounded.

use crate::common;
use crate::common::modules::{assert_close, noise, run};
use wgrad::models::conditional::{
    BlockConfig, ConditionalRoutedCrossAttention, ConditionalRoutedTransformerBlock, CoordinateDescentRouter,
    CoordinateDescentRouterConfig, CrossAttentionConfig, Route,
};
use wgrad::nn::{ParamVars, Params, ShardedType};
use wgrad::plan::{Options, Program};
use wgrad::{DType, Device, Feed, Graph, Tensor, TensorType, Var};

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

/// Loss of a block, and the gradients of its input and all parameters.
fn trained<'g>(block: &ConditionalRoutedTransformerBlock, p: &ParamVars<'g>, x: Var<'g>) -> Vec<Var<'g>> {
    let loss = block.forward(p, x, &block.route()).square().mean_all();
    let names: Vec<String> = p.names().map(str::to_owned).collect();
    let wrt: Vec<_> = [x].into_iter().chain(names.iter().map(|name| p.get(name))).collect();
    let grads = p.graph().grad(loss, &wrt);
    [loss].into_iter().chain(grads.iter().filter_map(|g| g.dense())).collect()
}

fn block(dim: usize, k: usize) -> (Params, ConditionalRoutedTransformerBlock) {
    let mut params = Params::new(1);
    let block = ConditionalRoutedTransformerBlock::new(&mut params, "", BlockConfig::new(dim, k, k, k));
    (params, block.unwrap_or_else(|e| panic!("{e}")))
}

/// Forward and backward pass, by shapes.
#[test]
fn memory_grows_with_the_length_and_not_with_its_square() {
    let peak = |n: usize| {
        let (params, block) = block(DIM, K);
        let graph = Graph::new();
        let out = trained(&block, &params.vars(&graph), graph.input("x", TensorType::f32([1, n, DIM])));
        assert_eq!(out.len(), 2 + params.len());
        let names: Vec<String> = (0..out.len()).map(|i| i.to_string()).collect();
        let outputs: Vec<(&str, Var<'_>)> = names.iter().map(String::as_str).zip(out).collect();
        let program = Program::build(&graph, &outputs, Options::default()).unwrap_or_else(|e| panic!("{e}"));
        // No value is larger than the tokens, or the queries of eight heads of 64 features, which fit a portable binding.
        let widest = program.buffers.iter().map(|b| b.ty.numel()).max().unwrap_or(0);
        assert!(widest <= n * DIM, "a value of {widest} elements at {n} tokens");
        program.slots(None).peak
    };
    let (short, long) = (peak(N / 2), peak(N));
    println!(
        "block on (1, {N}, {DIM}), forward and backward: peak {} MiB; half as long {} MiB",
        long >> 20,
        short >> 20
    );
    // So many values of the tokens' own size.
    let each = (N * DIM * 4) as u64;
    assert!(long < 18 * each, "{long} bytes are {} times the tokens", long / each);
    assert!(long < short * 21 / 10, "{short} bytes at {}, {long} at {N}", N / 2);
}

/// All executors, forward and backward, at a length that few of the windows and tiles divide.
#[test]
fn a_block_trains_on_a_long_narrow_sequence() {
    let (params, block) = block(16, 64);
    let x = noise(&[1, 5_003, 16], 4);
    let mut first: Option<Vec<Tensor>> = None;
    for device in common::devices() {
        let out = run(&device, &params, &[("x", &x)], |p, v| trained(&block, p, v[0]));
        let want = first.get_or_insert_with(|| out.clone());
        for (i, (a, b)) in out.iter().zip(want.iter()).enumerate() {
            let top = b.floats().iter().fold(0f32, |top, v| top.max(v.abs()));
            let off = a.floats().iter().zip(b.floats()).fold(0f32, |top, (a, b)| top.max((a - b).abs()));
            assert!(top > 0.0 && off <= 1e-3 * top, "{device}: output {i} is off by {off} of {top}");
        }
    }
}

/// At full size, on all executors; `--ignored` runs it.
#[test]
#[ignore = "a minute on two cores, several on a software driver"]
fn a_block_trains_on_a_long_sequence() {
    let (params, block) = block(DIM, K);
    let x = noise(&[1, N, DIM], 4);
    for device in common::devices() {
        let start = std::time::Instant::now();
        let out = run(&device, &params, &[("x", &x)], |p, v| {
            trained(&block, p, v[0]).into_iter().map(|v| v.square().sum_all()).collect()
        });
        println!("{:.1} s with compiling, {device}", start.elapsed().as_secs_f64());
        assert_eq!(out.len(), 2 + params.len());
        assert!(out.iter().all(|t| t.floats().iter().all(|v| v.is_finite() && *v > 0.0)));
    }
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
    // Cosines make no normalized copy of a piece.
    assert!(bytes(DIM, 16, CoordinateDescentRouterConfig::default()).2.bytes() < 64 << 20);
    let (params, ty, plan) = bytes(64, 2, old);
    let store = params.store(&Device::cpu()).unwrap_or_else(|e| panic!("{e}"));
    ty.set(&store, "memory", |rows| Ok(noise(&[rows.len(), 64], rows.start as u32))).unwrap_or_else(|e| panic!("{e}"));
    let x = noise(&[1, K, 64], 1);
    plan.run(&Feed::new().store(&store).input("x", &x)).unwrap_or_else(|e| panic!("{e}"));
    let y = plan.read_blocking("y").unwrap_or_else(|e| panic!("{e}"));
    assert!(y.floats().iter().all(|v| v.is_finite()) && y.floats().iter().any(|v| *v != 0.0));
}
