//! Cross attention to a context in pieces is that to the whole context.

use crate::common;
use std::collections::BTreeSet;
use wgrad::graph::Gradient;
use wgrad::models::conditional::{
    ConditionalRoutedCrossAttention, CoordinateDescentRouterConfig, CrossAttentionConfig, CrossRoute, RouterConfig,
    SinkhornRouterConfig, SourceAttention,
};
use wgrad::nn::{ParamVars, Params, ShardedType};
use wgrad::plan::{Options, Origin, Program};
use wgrad::types::DType;
use wgrad::{Device, Feed, Graph, Tensor, TensorType, Var};

/// Numbers in (-1, 1) that look random, by place.
fn noise(i: usize) -> f32 {
    let mut x = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn rows(from: std::ops::Range<usize>, width: usize) -> wgrad::Result<Tensor> {
    Tensor::f32([from.len(), width], (from.start * width..from.end * width).map(noise).collect())
}

fn table_gradients<'g>(out: Var<'g>, wrt: &[Var<'g>]) -> Vec<Var<'g>> {
    let loss = (out * out.graph().input("seed", out.ty())).sum_all();
    out.graph().grad(loss, wrt).iter().filter_map(Gradient::dense).collect()
}

/// A cross attention, the queries `[b, n, dim]` and how its context is cut.
struct Case {
    name: &'static str,
    config: CrossAttentionConfig,
    queries: [usize; 2],
    rows: usize,
    per_shard: usize,
    /// Every third row of the context is masked.
    masked: bool,
    /// So many keys count.
    count: Option<u32>,
    /// Routing tokens are passed.
    passed: bool,
}

impl Case {
    fn new(name: &'static str, rows: usize, per_shard: usize, config: CrossAttentionConfig) -> Self {
        Case { name, config, queries: [2, 21], rows, per_shard, masked: false, count: None, passed: false }
    }

    fn table(&self) -> ShardedType {
        let row = self.config.dim as u64 * 4;
        ShardedType::with_limit(DType::F32, self.rows, self.config.dim, self.per_shard as u64 * row).expect("fits")
    }

    fn model(&self) -> (Params, ConditionalRoutedCrossAttention) {
        let mut params = Params::new(5);
        let model = ConditionalRoutedCrossAttention::new(&mut params, "", self.config.clone());
        (params, model.unwrap_or_else(|e| panic!("{}: {e}", self.name)))
    }

    /// Routing of a context that stands `batch` times.
    fn route<'g>(&self, g: &'g Graph, model: &ConditionalRoutedCrossAttention, batch: usize) -> CrossRoute<'g> {
        let (mut route, r) = (model.route(), self.config.kv_routing_tokens);
        route.context.mask = self.masked.then(|| (g.iota([batch, self.rows], 1) * 2_863_311_531).lt(2_863_311_531));
        route.context.counts = self.count.map(|count| g.full_u32([batch], count));
        let tokens = || g.input("tokens", TensorType::f32([1, r, self.config.dim]));
        if self.passed {
            route.context.routing_tokens = Some(tokens().expand([batch, r, self.config.dim]));
            // The queries have tokens of their own, the same for all samples.
            let [b, _] = self.queries;
            let own = tokens().slice(1, 0, 1).expand([b, 1, self.config.dim]);
            route.queries.routing_tokens = Some(own);
        }
        route
    }

    /// Result and gradients of all parameters and of the queries.
    fn outputs<'g>(&self, p: &ParamVars<'g>, params: &Params, x: Var<'g>, out: Var<'g>) -> Vec<Var<'g>> {
        let g = p.graph();
        let loss = (out * g.input("seed", out.ty())).sum_all();
        let mut wrt: Vec<Var<'g>> = params.names().map(|name| p.get(name)).collect();
        wrt.push(x);
        let zero = |v: &Var<'g>| g.full(v.shape(), 0.0);
        let grads = g.grad(loss, &wrt);
        let grads = grads.iter().zip(&wrt).map(|(gradient, v)| gradient.dense().unwrap_or_else(|| zero(v)));
        [out].into_iter().chain(grads).collect()
    }

    fn check(&self, device: &Device, table_gradient: bool) {
        let ([b, n], dim, m, ty) = (self.queries, self.config.dim, self.rows, self.table());
        let (params, model) = self.model();
        let graph = Graph::new();
        let p = params.vars(&graph);
        let x = graph.input("x", TensorType::f32([b, n, dim]));
        let table = ty.state(&graph, "cut");
        let out = model.forward_sharded(&p, x, &table, m, &self.route(&graph, &model, 1));
        let mut cut = self.outputs(&p, &params, x, out);
        let whole = graph.state("whole", TensorType::f32([m, dim]));
        let context = whole.unsqueeze(0).expand([b, m, dim]);
        let out = model.forward(&p, x, context, &self.route(&graph, &model, b));
        let mut want = self.outputs(&p, &params, x, out);
        if table_gradient {
            let pieces = table_gradients(cut[0], table.shards());
            cut.push(pieces[0].concat(&pieces[1..], 0));
            want.extend(table_gradients(want[0], &[whole]));
        }
        let mut names: Vec<String> = ["out".to_owned()].into_iter().chain(params.names().map(str::to_owned)).collect();
        names.extend(["x".to_owned(), "table".to_owned()]);
        let keys: Vec<String> = (0..cut.len() * 2).map(|i| i.to_string()).collect();
        let vars = cut.iter().chain(&want);
        let outputs: Vec<(&str, Var<'_>)> = keys.iter().map(String::as_str).zip(vars.copied()).collect();
        let plan = device.compile_blocking(&graph, &outputs).unwrap_or_else(|e| panic!("{}: {e}", self.name));

        let store = params.store(device).expect("a store");
        ty.set(&store, "cut", |range| rows(range, dim)).expect("the table");
        store.set("whole", &rows(0..m, dim).expect("a tensor")).expect("the table");
        let of = |shape: &[usize], salt: usize| {
            let n: usize = shape.iter().product();
            Tensor::f32(shape, (0..n).map(|i| noise(i + salt)).collect()).expect("a tensor")
        };
        let (x, seed) = (of(&[b, n, dim], 1 << 40), of(&[b, n, dim], 1 << 41));
        let tokens = of(&[1, self.config.kv_routing_tokens, dim], 1 << 42);
        let feed = Feed::new().store(&store).input("x", &x).input("seed", &seed).input("tokens", &tokens);
        plan.run(&feed).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let mut alive = BTreeSet::new();
        for (i, name) in names.iter().take(cut.len()).enumerate() {
            let [a, w] = [i, i + cut.len()].map(|i| plan.read_blocking(&keys[i]).expect("an output"));
            let top = w.floats().iter().fold(0f32, |top, v| top.max(v.abs()));
            let off = a.floats().iter().zip(w.floats()).fold(0f32, |top, (a, w)| top.max((a - w).abs()));
            assert_eq!(a.shape(), w.shape());
            assert!(off <= 2e-4 * top, "{device}, {}: {name} is off by {off} of {top}", self.name);
            if top > 0.0 {
                alive.insert(name.clone());
            }
        }
        let needed = ["out", "heavy_attn.to_q.weight", "heavy_attn.to_kv.weight", "heavy_attn.to_out.weight", "x"];
        assert!(needed.iter().all(|name| alive.contains(*name)), "{}: gradients of {alive:?}", self.name);
        let learns = matches!(&self.config.router, RouterConfig::CoordinateDescent(c) if c.fetch_k_ratio == 1.0);
        let routed = self.config.num_tokens_kv < m && self.count != Some(0) && !self.passed;
        assert!(!(learns && routed) || alive.contains("kv_router.routing_token"), "{}: {alive:?}", self.name);
    }
}

fn config(dim: usize, q: usize, kv: usize, routes: usize) -> CrossAttentionConfig {
    let base = CrossAttentionConfig::new(dim, q, kv);
    CrossAttentionConfig { heads: 4, dim_head: 6, kv_routing_tokens: routes, ..base }
}

#[test]
fn pieces_are_the_whole() {
    let with = |config: CrossAttentionConfig, router: CoordinateDescentRouterConfig| CrossAttentionConfig {
        router: router.into(),
        ..config
    };
    let reference = CoordinateDescentRouterConfig::reference;
    let small = || config(10, 5, 7, 1);
    let cases = [
        Case::new("one route", 53, 9, small()),
        Case::new("one piece", 53, 53, small()),
        Case::new("pieces of a row", 11, 1, small()),
        Case::new("two routes", 53, 20, config(10, 5, 7, 2)),
        Case::new("the package's router", 53, 9, with(small(), reference())),
        Case::new("no more rows than are routed", 7, 3, config(10, 5, 7, 2)),
        Case::new("no routing of queries", 53, 9, config(10, 21, 7, 1)),
        Case::new("blocks", 53, 9, CrossAttentionConfig { route_block_size: Some(12), ..config(10, 5, 9, 2) }),
        Case { masked: true, ..Case::new("masked", 53, 9, config(10, 5, 7, 2)) },
        Case { masked: true, ..Case::new("masked and whole", 7, 3, config(10, 5, 7, 2)) },
        Case { count: Some(3), ..Case::new("counted", 53, 9, config(10, 5, 7, 2)) },
        Case { count: Some(3), ..Case::new("counted, few rows", 6, 4, config(10, 5, 7, 1)) },
        Case {
            passed: true,
            ..Case::new(
                "passed tokens",
                53,
                9,
                with(small(), CoordinateDescentRouterConfig { learned_routing_tokens: true, ..Default::default() }),
            )
        },
    ];
    for device in common::devices() {
        for case in &cases {
            case.check(&device, true);
        }
    }
}

/// A million and three rows in 16 pieces.
#[test]
fn a_million_rows() {
    let case = Case { queries: [1, 1024], ..Case::new("a million", 1_000_003, 62_501, config(16, 64, 512, 2)) };
    assert_eq!(case.table().shards().len(), 16);
    for device in common::devices() {
        case.check(&device, false);
    }
}

/// Nothing is bound that a device need not bind, and beside the context there is little: by shapes, at full size.
#[test]
fn a_million_rows_of_512_need_little() {
    let (n, m, dim) = (1024, 1_000_000, 512);
    let config = CrossAttentionConfig { kv_routing_tokens: 2, ..CrossAttentionConfig::new(dim, 256, 4096) };
    let mut params = Params::new(0);
    let model = ConditionalRoutedCrossAttention::new(&mut params, "", config).expect("a model");
    let graph = Graph::new();
    let p = params.vars(&graph);
    let ty = ShardedType::new(DType::F32, m, dim).expect("fits");
    assert_eq!(ty.shards().len(), 16);
    let x = graph.input("x", TensorType::f32([1, n, dim]));
    let out = model.forward_sharded(&p, x, &ty.state(&graph, "memories"), m, &model.route());
    let wrt: Vec<Var<'_>> = params.names().map(|name| p.get(name)).collect();
    let grads = graph.grad(out.square().mean_all(), &wrt);
    let names: Vec<&str> = params.names().collect();
    let mut outputs = vec![("out", out)];
    outputs.extend(names.iter().zip(&grads).filter_map(|(name, gradient)| Some((*name, gradient.dense()?))));
    assert!(outputs.iter().any(|(name, _)| *name == "kv_router.routing_token"));
    let program = Program::build(&graph, &outputs, Options::default()).unwrap_or_else(|e| panic!("{e}"));
    let bytes = |i: usize| program.buffers[i].ty.numel() as u64 * 4;
    let all = 0..program.buffers.len();
    let largest = all.clone().map(bytes).max().unwrap_or(0);
    assert!(largest <= 128 << 20, "a buffer of {largest} bytes");
    let computed = all.filter(|i| matches!(program.buffers[*i].origin, Origin::Computed)).map(bytes).max().unwrap_or(0);
    // Scores of two routes, or their routed rows.
    let (scores, routed) = (2 * m as u64 * 4, 2 * 4096 * dim as u64 * 4);
    assert!(computed <= scores.max(routed), "a value of {computed} bytes");
    // Nothing grows with rows times features.
    let bound = 12 * scores + 8 * routed;
    let peak = program.slots(None).peak;
    println!("peak {peak} bytes beside a context of {}", m as u64 * dim as u64 * 4);
    assert!(peak < bound, "peak {peak}, bound {bound}");
}

#[test]
fn refusals() {
    let refused = |config: CrossAttentionConfig, width: usize, change: &dyn Fn(&mut CrossRoute<'_>)| {
        let mut params = Params::new(0);
        let model = ConditionalRoutedCrossAttention::new(&mut params, "", config).expect("a model");
        let graph = Graph::new();
        let ty = ShardedType::with_limit(DType::F32, 30, width, 400).expect("fits");
        let x = graph.input("x", TensorType::f32([1, 20, 10]));
        let mut route = model.route();
        change(&mut route);
        model.forward_sharded(&params.vars(&graph), x, &ty.state(&graph, "t"), 30, &route);
        graph.error().unwrap_or_else(|| panic!("not refused")).to_string()
    };
    let small = || config(10, 5, 7, 1);
    assert!(refused(small(), 9, &|_| {}).contains("expected rows of 10, got 9"));
    assert!(refused(small(), 10, &|route| route.context.num_tokens = 0).contains("at least 1"));
    let sinkhorn = RouterConfig::Sinkhorn(SinkhornRouterConfig::default());
    let message = refused(CrossAttentionConfig { router: sinkhorn, ..small() }, 10, &|_| {});
    assert!(message.contains("only the coordinate-descent router"), "{message}");
    let attention = Some(SourceAttention { heads: 1, dim_head: 4 });
    let source = CoordinateDescentRouterConfig { source_attention: attention, ..Default::default() };
    let message = refused(CrossAttentionConfig { router: source.into(), ..small() }, 10, &|_| {});
    assert!(message.contains("cannot query a table"), "{message}");
    let graph = Graph::new();
    let mut params = Params::new(0);
    let model = ConditionalRoutedCrossAttention::new(&mut params, "", small()).expect("a model");
    let ty = ShardedType::with_limit(DType::F32, 30, 10, 400).expect("fits");
    let uneven = Graph::new();
    let x = uneven.input("x", TensorType::f32([1, 20, 10]));
    model.forward_sharded(&params.vars(&uneven), x, &ty.state(&uneven, "t"), 7, &model.route());
    assert!(uneven.error().is_some_and(|e| e.to_string().contains("30 rows are no whole number of contexts of 7")));
    let mut route = model.route();
    route.context.mask = Some(graph.full_u32([2, 30], 1));
    let x = graph.input("x", TensorType::f32([2, 20, 10]));
    model.forward_sharded(&params.vars(&graph), x, &ty.state(&graph, "t"), 30, &route);
    assert!(graph.error().is_some_and(|e| e.to_string().contains("mask of a table")));
}
