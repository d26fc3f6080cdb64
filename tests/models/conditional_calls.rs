//! Conditional routing: options of a call that few use.

use crate::common;
use crate::common::modules::{assert_close, mask, noise, run};
use wgrad::models::conditional::{
    AttentionConfig, AttentionRoute, ConditionalRoutedAttention, ConditionalRoutedCrossAttention,
    ConditionalRoutedImageAttention, CoordinateDescentRouterConfig, CrossAttentionConfig, ImageAttentionConfig,
    SourceAttention,
};
use wgrad::nn::Params;
use wgrad::{Error, Graph, Tensor, TensorType};

const DIM: usize = 12;

fn attention() -> AttentionConfig {
    AttentionConfig {
        light_dim_head: 5,
        light_heads: 2,
        light_window_size: 4,
        heavy_dim_head: 6,
        heavy_heads: 4,
        num_routed_kv: 2,
        ..AttentionConfig::new(DIM, 5, 6)
    }
}

/// Routing tokens that the caller passes do what the same tokens as parameters do.
#[test]
fn attention_takes_routing_tokens() {
    let config = |learned_routing_tokens| {
        let router = CoordinateDescentRouterConfig { learned_routing_tokens, ..Default::default() };
        AttentionConfig { router: router.into(), ..attention() }
    };
    let (mut own, mut none) = (Params::new(1), Params::new(1));
    let with = ConditionalRoutedAttention::new(&mut own, "", config(false)).unwrap();
    let without = ConditionalRoutedAttention::new(&mut none, "", config(true)).unwrap();
    assert_eq!(none.len() + 2, own.len());
    let x = noise(&[2, 15, DIM], 3);
    for device in common::devices() {
        let out = run(&device, &own, &[("x", &x)], |p, v| {
            let token = |name: &str, r: usize| p.get(name).unsqueeze(0).expand([2, r, DIM]);
            let (q, kv) = (token("q_router.routing_token", 1), token("kv_router.routing_token", 2));
            let passed = AttentionRoute {
                routing_tokens_q: Some(q.reshape([2, DIM])),
                routing_tokens_kv: Some(kv),
                ..without.route()
            };
            let both = [with.forward(p, v[0], &with.route()), without.forward(p, v[0], &passed)];
            let wrt = [p.get("q_router.routing_token"), p.get("kv_router.routing_token")];
            let grads = both.map(|y| p.graph().grad((y * y.sin()).sum_all(), &wrt));
            both.into_iter().chain(grads.iter().flatten().filter_map(|g| g.dense())).collect()
        });
        assert_eq!(out.len(), 6);
        for (a, b) in [(0, 1), (2, 4), (3, 5)] {
            assert!(out[a].floats().iter().any(|v| *v != 0.0));
            assert_close(&format!("{a} on {device}"), out[a].floats(), out[b].floats());
        }
    }
    // Neither are they made up, nor taken where there are own ones.
    for (module, given) in [(&without, false), (&with, true)] {
        let graph = Graph::new();
        let p = own.vars(&graph);
        let token = given.then(|| graph.input("t", TensorType::f32([2, DIM])));
        let route = AttentionRoute { routing_tokens_q: token, ..module.route() };
        module.forward(&p, graph.input("x", TensorType::f32([2, 15, DIM])), &route);
        assert!(matches!(graph.error(), Some(Error::Argument { .. })), "given: {given}");
    }
}

/// In an image, masked tokens of a patch are seen by no other.
#[test]
fn images_have_masks() {
    let config = ImageAttentionConfig { attention: attention(), channel_first: false };
    let mut params = Params::new(2);
    let module = ConditionalRoutedImageAttention::new(&mut params, "", config).unwrap();
    // Two images of two by one patches of 16 tokens.
    let x = noise(&[2, 8, 4, DIM], 4);
    let exists = |patch: usize, i: usize| !(patch + i).is_multiple_of(4) && patch < 3;
    let m = mask([4, 16], exists);
    let live = |token: usize| exists(token / 16, token % 16);
    let changed = x.floats().iter().enumerate().map(|(i, v)| if live(i / DIM) { *v } else { 3.0 - v }).collect();
    let changed = Tensor::f32([2, 8, 4, DIM], changed).unwrap();
    for device in common::devices() {
        let out = run(&device, &params, &[("x", &x), ("changed", &changed), ("m", &m)], |p, v| {
            let route = AttentionRoute { mask: Some(v[2]), ..module.route() };
            let y = [0, 1].map(|i| module.forward(p, v[i], &route));
            let grads = p.graph().grad((y[0] * y[0].sin()).sum_all(), &[v[0]]);
            y.into_iter().chain(grads.iter().filter_map(|g| g.dense())).collect()
        });
        assert!(out.iter().all(|t| t.floats().iter().all(|v| v.is_finite())), "{device}");
        let seen = |t: &Tensor| {
            let rows = t.floats().chunks(DIM).enumerate().filter(|(token, _)| live(*token));
            rows.flat_map(|(_, row)| row.to_vec()).collect::<Vec<f32>>()
        };
        assert_close(&format!("{device}"), &seen(&out[0]), &seen(&out[1]));
    }
    let graph = Graph::new();
    let wrong = graph.input("m", TensorType::u32([2, 32]));
    let route = AttentionRoute { mask: Some(wrong), ..module.route() };
    module.forward(&params.vars(&graph), graph.input("x", TensorType::f32([2, 8, 4, DIM])), &route);
    assert!(matches!(graph.error(), Some(Error::Argument { .. })));
}

/// In cross attention routing tokens may look at their source first; what is masked there changes nothing.
#[test]
fn cross_attention_routes_by_what_there_is() {
    let router = CoordinateDescentRouterConfig {
        source_attention: Some(SourceAttention { heads: 2, dim_head: 4 }),
        ..Default::default()
    };
    let config = CrossAttentionConfig {
        router: router.into(),
        kv_routing_tokens: 2,
        heads: 4,
        dim_head: 6,
        ..CrossAttentionConfig::new(DIM, 3, 5)
    };
    let mut params = Params::new(3);
    let module = ConditionalRoutedCrossAttention::new(&mut params, "", config).unwrap();
    let (x, context) = (noise(&[2, 8, DIM], 1), noise(&[2, 20, DIM], 2));
    let m = mask([2, 20], |b, i| b == 0 || i < 9);
    let hidden = context.floats().iter().enumerate().map(|(i, v)| if i / DIM < 29 { *v } else { v + 3.0 }).collect();
    let hidden = Tensor::f32([2, 20, DIM], hidden).unwrap();
    for device in common::devices() {
        let inputs = [("x", &x), ("context", &context), ("hidden", &hidden), ("m", &m)];
        let out = run(&device, &params, &inputs, |p, v| {
            let mut route = module.route();
            route.context.mask = Some(v[3]);
            let y = [1, 2].map(|i| module.forward(p, v[0], v[i], &route));
            let names = ["q_router.routing_token", "kv_router.routing_token", "kv_router.routing_attn.to_kv.weight"];
            let grads = p.graph().grad((y[0] * y[0].sin()).sum_all(), &names.map(|n| p.get(n)));
            y.into_iter().chain(grads.iter().filter_map(|g| g.dense())).collect()
        });
        assert_eq!(out.len(), 5);
        assert!(out.iter().all(|t| t.floats().iter().any(|v| v.abs() > 1e-6)), "a gradient is 0 on {device}");
        assert_close(&format!("masked, {device}"), out[0].floats(), out[1].floats());
    }
}
