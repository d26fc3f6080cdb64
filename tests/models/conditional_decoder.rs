//! The decoder's attention: it is causal, and token by token with a cache it gives what it gives at once.

use crate::common;
use crate::common::modules::{assert_close, entry, noise, run};
use wgrad::models::conditional::{
    AttentionConfig, AutoregressiveCache, AutoregressiveConfig, ConditionalRoutedAutoregressiveAttention,
    CoordinateDescentRouterConfig,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::{Device, Error, Feed, Graph, Plan, Store, Tensor, TensorType, Var};

const DIM: usize = 12;
const CAPACITY: usize = 24;

/// Heavy windows of 4, light ones of 6.
fn config() -> AutoregressiveConfig {
    let attention = AttentionConfig {
        light_dim_head: 5,
        light_heads: 2,
        light_window_size: 6,
        heavy_dim_head: 6,
        heavy_heads: 4,
        ..AttentionConfig::new(DIM, 3, 6)
    };
    AutoregressiveConfig { attention, heavy_window_size: Some(4) }
}

type Layers = Vec<ConditionalRoutedAutoregressiveAttention>;

/// Two layers.
fn stack(config: &AutoregressiveConfig) -> (Layers, Params) {
    let mut params = Params::new(11);
    let layer = |i: usize| ConditionalRoutedAutoregressiveAttention::new(&mut params, &format!("{i}"), config.clone());
    let layers: Result<Layers, Error> = (0..2).map(layer).collect();
    (layers.unwrap_or_else(|e| panic!("{e}")), params)
}

fn whole<'g>(layers: &Layers, p: &ParamVars<'g>, mut x: Var<'g>) -> Var<'g> {
    for layer in layers {
        x = x + layer.forward(p, x, &layer.route());
    }
    x
}

/// Caches as states of a graph.
fn caches<'g>(layers: &Layers, graph: &'g Graph, batch: usize) -> Vec<AutoregressiveCache<'g>> {
    let cache = |(i, layer): (usize, &ConditionalRoutedAutoregressiveAttention)| {
        let parts = layer.cache_types(batch, CAPACITY);
        AutoregressiveCache::from_parts(parts.map(|(name, ty)| graph.state(&format!("cache.{i}.{name}"), ty)))
    };
    layers.iter().enumerate().map(cache).collect()
}

fn keep<'g>(graph: &'g Graph, old: &AutoregressiveCache<'g>, new: &AutoregressiveCache<'g>) {
    for (old, new) in old.parts().into_iter().zip(new.parts()) {
        graph.assign(old, new);
    }
}

/// A step within a window, and the change to the next.
fn plans(layers: &Layers, params: &Params, device: &Device, batch: usize, window: usize) -> [Plan; 2] {
    let compile = |graph: &Graph, outputs: &[(&str, Var<'_>)]| {
        device.compile_blocking(graph, outputs).unwrap_or_else(|e| panic!("{e}"))
    };
    let counts = |graph: &Graph, name: &str| graph.input(name, TensorType::u32([batch])).ty();
    let graph = Graph::new();
    let p = params.vars(&graph);
    let ty = counts(&graph, "count");
    let (count, filled) = (graph.input("count", ty.clone()), graph.input("filled", ty.clone()));
    let mut x = graph.input("x", TensorType::f32([batch, window, DIM]));
    for (layer, old) in layers.iter().zip(caches(layers, &graph, batch)) {
        let (y, new) = layer.forward_cached(&p, x, count, filled, old);
        keep(&graph, &old, &new);
        x = x + y;
    }
    let step = compile(&graph, &[("out", x)]);
    let graph = Graph::new();
    let p = params.vars(&graph);
    let filled = graph.input("filled", ty);
    for (layer, old) in layers.iter().zip(caches(layers, &graph, batch)) {
        keep(&graph, &old, &layer.next_window(&p, old, filled));
    }
    [step, compile(&graph, &[])]
}

/// Feeds two texts, the second five tokens behind the first, token by token, and compares the current window with all that
/// has come so far at once.
fn check(what: &str, config: &AutoregressiveConfig, device: &Device) {
    let (layers, params) = stack(config);
    let w = config.window();
    let text = noise(&[2, CAPACITY, DIM], 21);
    let [step, next] = plans(&layers, &params, device, 2, w);
    let parameters = params.store(device).unwrap_or_else(|e| panic!("{e}"));
    let cache = Store::new(device);
    for (i, layer) in layers.iter().enumerate() {
        for (name, ty) in layer.cache_types(2, CAPACITY) {
            cache.set_zeros(&format!("cache.{i}.{name}"), &ty).unwrap_or_else(|e| panic!("{e}"));
        }
    }
    let numbers = |n: [usize; 2]| Tensor::u32([2], n.map(|n| n as u32).to_vec()).expect("two");
    for t in 1..=CAPACITY {
        let lengths = [t, t.saturating_sub(5)];
        let filled = lengths.map(|n| n.saturating_sub(1) / w * w);
        let count = [lengths[0] - filled[0], lengths[1] - filled[1]];
        let mut window = vec![0.0; 2 * w * DIM];
        for b in 0..2 {
            let from = (b * CAPACITY + filled[b]) * DIM;
            let new = &text.floats()[from..from + count[b] * DIM];
            window[b * w * DIM..b * w * DIM + new.len()].copy_from_slice(new);
        }
        let window = Tensor::f32([2, w, DIM], window).expect("a window");
        let (filled_t, count_t) = (numbers(filled), numbers(count));
        let feed = Feed::new().store(&parameters).store(&cache).input("filled", &filled_t);
        if lengths.iter().zip(filled).any(|(n, f)| f > 0 && *n == f + 1) {
            next.run(&feed).unwrap_or_else(|e| panic!("{e}"));
        }
        step.run(&feed.input("x", &window).input("count", &count_t)).unwrap_or_else(|e| panic!("{e}"));
        let out = step.read_blocking("out").unwrap_or_else(|e| panic!("{e}"));
        for b in (0..2).filter(|b| lengths[*b] > 0) {
            let so_far = entry(&text, b).floats()[..lengths[b] * DIM].to_vec();
            let so_far = Tensor::f32([1, lengths[b], DIM], so_far).expect("a text");
            let all = run(device, &params, &[("x", &so_far)], |p, v| vec![whole(&layers, p, v[0])]);
            let want = &all[0].floats()[filled[b] * DIM..];
            assert_close(
                &format!("{what}, text {b} of {} on {device}", lengths[b]),
                &entry(&out, b).floats()[..want.len()],
                want,
            );
        }
    }
}

#[test]
fn a_cache_gives_what_the_whole_text_gives() {
    let plain = config();
    let attention = plain.attention.clone();
    let with = |attention: AttentionConfig| AutoregressiveConfig { attention, ..config() };
    let soft = CoordinateDescentRouterConfig { straight_through: false, ..Default::default() };
    let all = [
        ("plain", plain.clone()),
        (
            "two routes, rotary, soft, queries times scores",
            with(AttentionConfig {
                num_routed_kv: 2,
                rotary_emb: true,
                router: soft.into(),
                multiply_queries_by_score: true,
                multiply_keys_by_score: true,
                ..attention.clone()
            }),
        ),
        ("keys not routed", with(AttentionConfig { num_heavy_tokens_kv: 40, rotary_emb: true, ..attention.clone() })),
        ("queries not routed", with(AttentionConfig { num_heavy_tokens_q: 4, use_null_kv: false, ..attention })),
    ];
    for (what, config) in &all {
        check(what, config, &Device::cpu());
    }
    if let Some(device) = common::gpu() {
        check(all[1].0, &all[1].1, device);
    }
}

#[test]
fn later_windows_change_nothing() {
    let (layers, params) = stack(&config());
    let x = noise(&[2, 23, DIM], 2);
    let mut other = x.floats().to_vec();
    for b in 0..2 {
        other[(b * 23 + 12) * DIM..(b + 1) * 23 * DIM].iter_mut().for_each(|v| *v = 1.0 - 2.0 * *v);
    }
    let other = Tensor::f32([2, 23, DIM], other).expect("the same shape");
    for device in common::devices() {
        let [a, b] = [&x, &other].map(|x| run(&device, &params, &[("x", x)], |p, v| vec![whole(&layers, p, v[0])]));
        for i in 0..2 {
            let (a, b) = (entry(&a[0], i), entry(&b[0], i));
            assert_eq!(a.floats()[..12 * DIM], b.floats()[..12 * DIM]);
            assert_ne!(a.floats()[12 * DIM..], b.floats()[12 * DIM..]);
        }
    }
}

#[test]
fn what_cannot_be_cached_is_refused() {
    let blocks = CoordinateDescentRouterConfig { route_block_size: Some(4), ..Default::default() };
    let attention = AttentionConfig { router: blocks.into(), ..config().attention };
    let (blocks, params) = stack(&AutoregressiveConfig { attention, ..config() });
    let (plain, _) = stack(&config());
    for (layers, capacity) in [(&blocks, 24), (&plain, 23)] {
        let graph = Graph::new();
        let p = params.vars(&graph);
        let types = layers[0].cache_types(2, capacity);
        let cache = AutoregressiveCache::from_parts(types.map(|(name, ty)| graph.input(name, ty)));
        layers[0].next_window(&p, cache, graph.input("filled", TensorType::u32([2])));
        assert!(matches!(graph.error(), Some(Error::Argument { .. })), "{:?}", graph.error());
    }
}
