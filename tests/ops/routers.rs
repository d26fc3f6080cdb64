//! Routers and what they select by, where the numbers or the options are unusual.

use crate::common;
use crate::common::modules::{mask, noise, run};
use wgrad::models::conditional::*;
use wgrad::nn::Params;
use wgrad::ops::route::sinkhorn::Sinkhorn;
use wgrad::ops::route::soft_top_k::SoftTopK;
use wgrad::{Error, Graph, Tensor, TensorType, Var};

const DIM: usize = 12;

fn attention() -> AttentionConfig {
    AttentionConfig {
        light_window_size: 4,
        light_heads: 2,
        light_dim_head: 4,
        heavy_heads: 2,
        heavy_dim_head: 4,
        ..AttentionConfig::new(DIM, 3, 4)
    }
}

/// Shares of a running sum are between 0 and 1 whatever is summed; what is no number is left out.
#[test]
fn cumulative_softmax_of_hard_rows() {
    const N: usize = 9;
    const K: usize = 4;
    let row = |f: &dyn Fn(usize) -> f32| (0..N).map(f).collect::<Vec<f32>>();
    let one = |value: f32| row(&|i| if i == 4 { value } else { i as f32 });
    let rows = [
        row(&|_| 1.5),
        row(&|_| f32::MAX),
        row(&|_| f32::MIN),
        row(&|i| if i % 2 == 0 { 3e38 } else { -3e38 }),
        row(&|i| if i == 4 { 0.5 } else { f32::MIN }),
        row(&|i| f32::from_bits(i as u32 + 1)),
        one(f32::NAN),
        one(f32::NEG_INFINITY),
        row(&|_| f32::NAN),
    ];
    let x = Tensor::f32([rows.len(), N], rows.concat()).unwrap();
    let valid = mask([rows.len(), N], |row, i| (row + i) % 3 != 0);
    for device in common::devices() {
        for masked in [false, true] {
            let out = run(&device, &Params::new(0), &[("x", &x), ("mask", &valid)], |_, v| {
                let c = v[0].cumulative_softmax(K, 0.7, masked.then_some(v[1]));
                let g = v[0].graph().grad((c.scores * c.scores).sum_all(), &[v[0]]);
                vec![c.scores, g[0].dense().unwrap()]
            });
            for (r, scores) in out[0].floats().chunks(K).enumerate() {
                let fine = scores.iter().all(|s| (0.0..=1.0).contains(s));
                assert!(fine, "row {r}, masked {masked}: {scores:?} on {device}");
            }
            assert!(out[1].floats().iter().all(|g| g.is_finite()), "masked {masked} on {device}");
            // The entry that is no number changes nothing: as if it were far below.
            let [nan, low] = [6, 7].map(|r| &out[0].floats()[r * K..(r + 1) * K]);
            assert!(masked || nan == low, "{nan:?} {low:?}");
        }
    }
}

#[test]
fn scales_beyond_single_precision_are_refused() {
    let refused = |what: &str, build: &dyn for<'g> Fn(Var<'g>)| {
        let graph = Graph::new();
        build(graph.input("x", TensorType::f32([2, 5])));
        let error = graph.error().expect(what).to_string();
        assert!(
            matches!(graph.error(), Some(Error::Argument { .. })) && error.contains("tests/ops/routers.rs:"),
            "{error}"
        );
    };
    for t in [0.0, -1.0, 1e-40, 1e-300, f64::NAN] {
        refused("sinkhorn", &|x| _ = x.sinkhorn(&Sinkhorn { temperature: t, ..Sinkhorn::default() }, None));
        refused("cumulative softmax", &|x| _ = x.cumulative_softmax(2, t, None));
    }
    for k in [0, 6] {
        let graph = Graph::new();
        graph.input("x", TensorType::f32([2, 5])).cumulative_softmax(k, 1.0, None);
        assert!(matches!(graph.error(), Some(Error::Shape { .. })), "k {k}");
    }
    let growing = SoftTopK::iterations(100, 0.1).scaled(4.0, 10.0);
    refused("soft top-k", &|x| _ = x.soft_top_k(2.0, &growing, None));
    let router = CoordinateDescentRouterConfig { how: growing, ..Default::default() };
    assert!(matches!(router.check(), Err(Error::Argument { .. })));
}

#[test]
fn errors_name_the_call() {
    let mut params = Params::new(0);
    let ff = ConditionalRoutedFeedForward::new(&mut params, "ff", FeedForwardConfig::new(DIM, 3)).unwrap();
    let attn = ConditionalRoutedAttention::new(&mut params, "attn", attention()).unwrap();
    let decoder = AutoregressiveConfig { attention: attention(), heavy_window_size: None };
    let decoder = ConditionalRoutedAutoregressiveAttention::new(&mut params, "decoder", decoder).unwrap();
    let cross =
        ConditionalRoutedCrossAttention::new(&mut params, "cross", CrossAttentionConfig::new(DIM, 3, 4)).unwrap();
    // Three tokens are not routed, and the options are looked at all the same.
    for n in [3, 9] {
        for call in 0..6 {
            let graph = Graph::new();
            let (p, x) = (params.vars(&graph), graph.input("x", TensorType::f32([2, n, DIM])));
            let wrong = graph.input("mask", TensorType::u32([2, n + 1]));
            match call {
                0 => ff.forward(&p, x, &Route::new(0)),
                1 => attn.forward(&p, x, &AttentionRoute { num_heavy_tokens_kv: 0, ..attn.route() }),
                2 => attn.forward(&p, x, &AttentionRoute { mask: Some(wrong), ..attn.route() }),
                3 => decoder.forward(&p, x, &AutoregressiveRoute { num_heavy_tokens_q: 0, ..decoder.route() }),
                4 => decoder.forward(&p, x, &AutoregressiveRoute { num_heavy_tokens_kv: 0, ..decoder.route() }),
                _ => cross.forward(&p, x, graph.input("c", TensorType::f32([3, n, DIM])), &cross.route()),
            };
            let error = graph.error().unwrap_or_else(|| panic!("call {call}, {n} tokens")).to_string();
            assert!(matches!(graph.error(), Some(Error::Argument { .. })), "call {call}: {error}");
            assert!(error.contains("tests/ops/routers.rs:"), "call {call}: {error}");
        }
    }
}

/// The dimension of one route is a router's own; modules have no use for it.
#[test]
fn modules_take_one_route_with_its_dimension() {
    let mut params = Params::new(0);
    let ff = ConditionalRoutedFeedForward::new(&mut params, "ff", FeedForwardConfig::new(DIM, 3)).unwrap();
    let cross =
        ConditionalRoutedCrossAttention::new(&mut params, "cross", CrossAttentionConfig::new(DIM, 3, 4)).unwrap();
    let x = noise(&[2, 9, DIM], 1);
    let out = run(&wgrad::Device::cpu(), &params, &[("x", &x)], |p, v| {
        let kept = Route { keep_one_route_dim: true, ..ff.route() };
        let mut both = cross.route();
        (both.queries.keep_one_route_dim, both.context.keep_one_route_dim) = (true, true);
        vec![
            ff.forward(p, v[0], &ff.route()),
            ff.forward(p, v[0], &kept),
            cross.forward(p, v[0], v[0], &cross.route()),
            cross.forward(p, v[0], v[0], &both),
        ]
    });
    assert_eq!(out[0], out[1]);
    assert_eq!(out[2], out[3]);
}

/// As many tokens as are routed: versions 0.2.x give them soft scores, later ones do not route.
#[test]
fn a_sequence_of_as_many_tokens_as_are_routed() {
    let x = noise(&[2, 7, DIM], 1);
    for (config, routed) in
        [(CoordinateDescentRouterConfig::version_0_2(), true), (CoordinateDescentRouterConfig::reference(), false)]
    {
        let config = CoordinateDescentRouterConfig { straight_through: false, ..config };
        let mut params = Params::new(0);
        let router = CoordinateDescentRouter::new(&mut params, "", DIM, config).unwrap();
        for device in common::devices() {
            let out = run(&device, &params, &[("x", &x)], |p, v| {
                let one = router.forward(p, v[0], &Route::new(7));
                assert_eq!(one.indices.is_some(), routed);
                assert!(router.forward(p, v[0], &Route::new(8)).indices.is_none());
                vec![one.scores]
            });
            assert_eq!(out[0].floats().iter().any(|s| *s != 1.0), routed, "{:?}", out[0].floats());
        }
    }
}
