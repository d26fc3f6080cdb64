//! Conditional routing beyond parity: bad input, counts of each sample, masked samples, blocks, new options.

use crate::common;
use crate::common::modules::{assert_close, entry, mask, noise, run};
use wgrad::models::conditional::{
    AttentionConfig, AutoregressiveConfig, BlockConfig, ConditionalRoutedAttention,
    ConditionalRoutedAutoregressiveAttention, ConditionalRoutedCrossAttention, ConditionalRoutedFeedForward,
    ConditionalRoutedImageAttention, ConditionalRoutedTransformerBlock, ConditionalRoutedViT, Context,
    CoordinateDescentRouter, CoordinateDescentRouterConfig, CrossAttentionConfig, CumulativeSoftmaxRouterConfig,
    DescentKeys, FeedForwardConfig, HeavyAttention, HeavyAttentionConfig, ImageAttentionConfig, Route, RoutedDecoder,
    RoutedDecoderConfig, Router, RouterConfig, Similarity, SinkhornRouterConfig, SourceAttention, ViTConfig,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::ops::route::soft_top_k::SoftTopK;
use wgrad::{DType, Error, Graph, Result, Tensor, TensorType};

const DIM: usize = 12;

fn attention() -> AttentionConfig {
    AttentionConfig {
        light_dim_head: 5,
        light_heads: 2,
        light_window_size: 8,
        heavy_dim_head: 6,
        heavy_heads: 4,
        ..AttentionConfig::new(DIM, 5, 6)
    }
}

fn block() -> BlockConfig {
    BlockConfig { attention: attention(), ..BlockConfig::new(DIM, 5, 6, 4) }
}

#[test]
fn versions_of_a_block_set_both_of_its_routers() {
    let text = |router: &RouterConfig| format!("{router:?}");
    let reference = text(&CoordinateDescentRouterConfig::reference().into());
    let old = text(&CoordinateDescentRouterConfig::version_0_2().into());
    assert!(reference != old && text(&block().attention.router) != reference);
    for (block, expected) in [(block().reference(), &reference), (block().version_0_2(), &old)] {
        assert_eq!(
            [text(&block.attention.router), text(&block.feed_forward.router)],
            [expected.clone(), expected.clone()]
        );
    }
    let (plain, old) = (block().reference().attention, block().version_0_2().attention);
    assert!(plain.use_null_kv && plain.use_null_q_tokens && !old.use_null_kv && !old.use_null_q_tokens);
}

#[test]
fn options_that_no_module_can_have_are_refused() {
    type Made = Result<()>;
    let p = || Params::new(0);
    let attn = |change: fn(&mut AttentionConfig)| -> Made {
        let mut c = attention();
        change(&mut c);
        ConditionalRoutedAttention::new(&mut p(), "", c).map(drop)
    };
    let descent = |change: fn(&mut CoordinateDescentRouterConfig)| -> Made {
        let mut c = CoordinateDescentRouterConfig::default();
        change(&mut c);
        CoordinateDescentRouter::new(&mut p(), "", DIM, c).map(drop)
    };
    let vit = |change: fn(&mut ViTConfig)| -> Made {
        let attention = AttentionConfig { light_window_size: 2, ..attention() };
        let mut c = ViTConfig::new(8, 2, 3, 1, attention, FeedForwardConfig::new(DIM, 2));
        change(&mut c);
        ConditionalRoutedViT::new(&mut p(), "", c).map(drop)
    };
    assert!(attn(|_| ()).is_ok() && descent(|_| ()).is_ok() && vit(|_| ()).is_ok());
    let refused = [
        attn(|c| c.dim = 0),
        attn(|c| c.num_heavy_tokens_q = 0),
        attn(|c| c.num_heavy_tokens_kv = 0),
        attn(|c| c.num_routed_kv = 3),
        attn(|c| c.num_routed_kv = 0),
        attn(|c| c.light_window_size = 1),
        attn(|c| c.light_heads = 0),
        attn(|c| (c.heavy_dim_head, c.rotary_emb) = (5, true)),
        attn(|c| c.heavy_descent = Some(DescentKeys { k: 0.0, how: SoftTopK::exact(0.1), normalize: false })),
        attn(|c| c.heavy_descent = Some(DescentKeys { k: 1.0, how: SoftTopK::exact(-1.0), normalize: false })),
        attn(|c| c.router = SinkhornRouterConfig { n_iters: 0, ..Default::default() }.into()),
        attn(|c| c.router = SinkhornRouterConfig { temperature: 0.0, ..Default::default() }.into()),
        descent(|c| c.fetch_k_ratio = 0.9),
        descent(|c| c.fetch_k_ratio = f64::NAN),
        descent(|c| c.num_routing_tokens = 0),
        descent(|c| c.route_block_size = Some(0)),
        descent(|c| c.similarity = Similarity::Cosine { scale: -1.0 }),
        descent(|c| c.source_attention = Some(SourceAttention { heads: 0, dim_head: 4 })),
        vit(|c| c.patch_size = 3),
        vit(|c| c.attention.light_window_size = 3),
        vit(|c| c.feed_forward.dim = 8),
        vit(|c| c.num_classes = 0),
        ConditionalRoutedFeedForward::new(&mut p(), "", FeedForwardConfig::new(DIM, 0)).map(drop),
        ConditionalRoutedCrossAttention::new(&mut p(), "", CrossAttentionConfig::new(DIM, 0, 1)).map(drop),
        ConditionalRoutedCrossAttention::new(
            &mut p(),
            "",
            CrossAttentionConfig { kv_routing_tokens: 3, ..CrossAttentionConfig::new(DIM, 1, 1) },
        )
        .map(drop),
        ConditionalRoutedTransformerBlock::new(
            &mut p(),
            "",
            BlockConfig { feed_forward: FeedForwardConfig::new(16, 4), ..block() },
        )
        .map(drop),
        ConditionalRoutedAutoregressiveAttention::new(
            &mut p(),
            "",
            AutoregressiveConfig { heavy_window_size: Some(0), ..AutoregressiveConfig::new(DIM, 1, 1) },
        )
        .map(drop),
        ConditionalRoutedAutoregressiveAttention::new(
            &mut p(),
            "",
            AutoregressiveConfig {
                attention: AttentionConfig { router: SinkhornRouterConfig::default().into(), ..attention() },
                heavy_window_size: None,
            },
        )
        .map(drop),
    ];
    for (i, result) in refused.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::Argument { .. })), "option {i}: {result:?}");
    }
}

#[test]
fn sizes_that_no_tensor_has_are_refused() {
    let p = || Params::new(0);
    for big in [1 << 33, usize::MAX / 2, usize::MAX] {
        let attn = |change: &dyn Fn(&mut AttentionConfig)| {
            let mut c = attention();
            change(&mut c);
            ConditionalRoutedAttention::new(&mut p(), "", c).map(drop)
        };
        let ff = FeedForwardConfig { heavy_ff_mult: big as f64, ..FeedForwardConfig::new(DIM, 2) };
        let patches = AttentionConfig { light_window_size: 1, ..attention() };
        let vit = ViTConfig::new(big, 1, 3, 1, patches, FeedForwardConfig::new(DIM, 2));
        let refused = [
            attn(&|c| c.dim = big),
            attn(&|c| c.light_dim_head = big),
            attn(&|c| c.light_heads = big),
            attn(&|c| c.heavy_dim_head = big),
            attn(&|c| (c.rotary_emb, c.heavy_dim_head) = (true, big - 1)),
            attn(&|c| c.heavy_heads = big),
            attn(&|c| (c.num_routed_kv, c.heavy_heads) = (big, big)),
            ConditionalRoutedFeedForward::new(&mut p(), "", ff).map(drop),
            ConditionalRoutedViT::new(&mut p(), "", vit).map(drop),
            RoutedDecoder::new(RoutedDecoderConfig::new(11, DIM, 1, 2, big, 5)).map(drop),
            RoutedDecoder::new(RoutedDecoderConfig::new(big, DIM, 1, 2, 4, 5)).map(drop),
        ];
        for (i, result) in refused.into_iter().enumerate() {
            assert!(matches!(result, Err(Error::Limit { .. })), "{big}, option {i}: {result:?}");
        }
        // Without a Result, the parameters keep it.
        let mut params = p();
        let routes = CoordinateDescentRouterConfig { num_routing_tokens: big, ..Default::default() };
        assert!(CoordinateDescentRouter::new(&mut params, "", DIM, routes).is_ok());
        assert!(matches!(params.error(), Some(Error::Limit { .. })));
        let graph = Graph::new();
        params.vars(&graph);
        assert!(matches!(graph.error(), Some(Error::Limit { .. })));
    }
}

#[test]
fn calls_that_do_not_fit_are_refused() {
    let mut params = Params::new(0);
    let make = |params: &mut Params| -> Result<_> {
        let sinkhorn = RouterConfig::from(SinkhornRouterConfig::default());
        let image = AttentionConfig { light_window_size: 2, ..attention() };
        let image = ImageAttentionConfig { attention: image, channel_first: false };
        let passed = CoordinateDescentRouterConfig { learned_routing_tokens: true, ..Default::default() };
        Ok((
            ConditionalRoutedTransformerBlock::new(params, "block", block())?,
            Router::new(params, "router", DIM, &RouterConfig::default(), 2)?,
            Router::new(params, "sinkhorn", DIM, &sinkhorn, 1)?,
            ConditionalRoutedImageAttention::new(params, "image", image)?,
            CoordinateDescentRouter::new(params, "passed", DIM, passed)?,
            HeavyAttention::new(params, "heavy", HeavyAttentionConfig::new(DIM))?,
            ConditionalRoutedAutoregressiveAttention::new(
                params,
                "decoder",
                AutoregressiveConfig { attention: attention(), heavy_window_size: Some(4) },
            )?,
        ))
    };
    let (block, router, sinkhorn, image, passed, heavy, decoder) = make(&mut params).unwrap_or_else(|e| panic!("{e}"));
    type Call<'a> = Box<dyn for<'g> Fn(&'g Graph, &ParamVars<'g>) + 'a>;
    let f32s = |shape: &[usize]| TensorType::f32(shape);
    let u32s = |shape: &[usize]| TensorType::u32(shape);
    let calls: Vec<Call<'_>> = vec![
        Box::new(|g, p| {
            let (x, m) = (g.input("x", f32s(&[2, 9, DIM])), g.input("m", u32s(&[2, 8])));
            block.forward(p, x, &block.route().mask(m));
        }),
        Box::new(|g, p| {
            let (x, m) = (g.input("x", f32s(&[2, 9, DIM])), g.input("m", f32s(&[2, 9])));
            block.forward(p, x, &block.route().mask(m));
        }),
        Box::new(|g, p| {
            block.forward(p, g.input("x", f32s(&[2, 9, DIM + 1])), &block.route());
        }),
        Box::new(|g, p| {
            router.forward(p, g.input("x", f32s(&[2, 9, DIM])), &Route::new(0));
        }),
        Box::new(|g, p| {
            let route = Route { counts: Some(g.input("c", u32s(&[3]))), ..Route::new(4) };
            router.forward(p, g.input("x", f32s(&[2, 9, DIM])), &route);
        }),
        Box::new(|g, p| {
            let route = Route { routing_tokens: Some(g.input("t", f32s(&[2, 2, DIM]))), ..Route::new(4) };
            router.forward(p, g.input("x", f32s(&[2, 9, DIM])), &route);
        }),
        Box::new(|g, p| {
            passed.forward(p, g.input("x", f32s(&[2, 9, DIM])), &Route::new(4));
        }),
        Box::new(|g, p| {
            let route = Route { random_route: true, ..Route::new(4) };
            sinkhorn.forward(p, g.input("x", f32s(&[2, 9, DIM])), &route);
        }),
        Box::new(|g, p| {
            image.forward(p, g.input("x", f32s(&[2, 5, 4, DIM])), &image.route());
        }),
        Box::new(|g, p| {
            let context = Context { tokens: Some(g.input("c", f32s(&[2, 3, 7, DIM]))), ..Context::default() };
            heavy.forward(p, g.input("x", f32s(&[2, 9, DIM])), None, None, &context);
        }),
        Box::new(|g, p| {
            let mask = Some(g.input("m", u32s(&[2, 1, 9])));
            let context = Context { mask, ..Context::default() };
            heavy.forward(p, g.input("x", f32s(&[2, 9, DIM])), None, None, &context);
        }),
        Box::new(|g, p| {
            decoder.forward(p, g.input("x", f32s(&[2, 9, DIM + 1])), &decoder.route());
        }),
        Box::new(|g, p| {
            decoder.forward(p, g.input("x", f32s(&[2, 9])), &decoder.route());
        }),
    ];
    for (i, call) in calls.iter().enumerate() {
        let graph = Graph::new();
        call(&graph, &params.vars(&graph));
        assert!(matches!(graph.error(), Some(Error::Argument { .. })), "call {i}: {:?}", graph.error());
    }
}

#[test]
fn each_sample_routes_as_many_tokens_as_its_count() {
    let mut params = Params::new(1);
    let ff = FeedForwardConfig { light_ff_mult: 0.5, heavy_ff_mult: 2.0, ..FeedForwardConfig::new(DIM, 7) };
    let ff = ConditionalRoutedFeedForward::new(&mut params, "ff", ff).unwrap_or_else(|e| panic!("{e}"));
    let routed = AttentionConfig { num_routed_kv: 2, rotary_emb: true, ..attention() };
    let attn = ConditionalRoutedAttention::new(&mut params, "attn", routed).unwrap_or_else(|e| panic!("{e}"));
    let counts = [2u32, 5, 1, 3, 0];
    let x = noise(&[counts.len(), 19, DIM], 5);
    let c = Tensor::u32([counts.len()], counts.to_vec()).expect("one each");
    for device in common::devices() {
        let all = run(&device, &params, &[("x", &x), ("c", &c)], |p, v| {
            let route = Route { counts: Some(v[1]), ..ff.route() };
            let mut heavy = attn.route();
            (heavy.counts_q, heavy.counts_kv) = (Some(v[1]), Some(v[1] + 1));
            vec![ff.forward(p, v[0], &route), attn.forward(p, v[0], &heavy)]
        });
        for (i, count) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
            let one = run(&device, &params, &[("x", &entry(&x, i))], |p, v| {
                let mut heavy = attn.route();
                heavy.num_heavy_tokens_q = *count as usize;
                heavy.num_heavy_tokens_kv = *count as usize + 1;
                vec![ff.forward(p, v[0], &Route::new(*count as usize)), attn.forward(p, v[0], &heavy)]
            });
            for (all, one) in all.iter().zip(&one) {
                assert_close(&format!("sample {i} on {device}"), entry(all, i).floats(), one.floats());
            }
        }
    }
}

#[test]
fn a_sample_that_is_all_masked_stays_finite_and_alone() {
    let mut params = Params::new(2);
    let module = ConditionalRoutedTransformerBlock::new(&mut params, "", block()).unwrap_or_else(|e| panic!("{e}"));
    let x = noise(&[3, 17, DIM], 9);
    let m = mask([3, 17], |b, i| b == 0 || (b == 2 && i < 3));
    for device in common::devices() {
        let out = run(&device, &params, &[("x", &x), ("m", &m)], |p, v| {
            let out = module.forward(p, v[0], &module.route().mask(v[1]));
            let loss = (out * out.sin()).sum_all();
            let wrt = [v[0], p.get("conditional_attn.kv_router.routing_token"), p.get("conditional_attn.null_q_token")];
            let grads = p.graph().grad(loss, &wrt).iter().filter_map(|g| g.dense()).collect::<Vec<_>>();
            [vec![out], grads].concat()
        });
        assert_eq!(out.len(), 4);
        assert!(out.iter().all(|t| t.floats().iter().all(|v| v.is_finite())));
        let alone = mask([1, 17], |_, _| true);
        let one = run(&device, &params, &[("x", &entry(&x, 0)), ("m", &alone)], |p, v| {
            vec![module.forward(p, v[0], &module.route().mask(v[1]))]
        });
        assert_close("sample 0", entry(&out[0], 0).floats(), one[0].floats());
    }
}

#[test]
fn old_routers_leave_a_sample_that_is_all_masked_finite() {
    for straight_through in [true, false] {
        let sinkhorn = SinkhornRouterConfig { straight_through, ..Default::default() };
        let cumulative = CumulativeSoftmaxRouterConfig { straight_through, ..Default::default() };
        for router in [RouterConfig::from(sinkhorn), RouterConfig::from(cumulative)] {
            let mut params = Params::new(6);
            let config = FeedForwardConfig { router, ..FeedForwardConfig::new(DIM, 4) };
            let ff = ConditionalRoutedFeedForward::new(&mut params, "", config).unwrap_or_else(|e| panic!("{e}"));
            let (x, m) = (noise(&[2, 9, DIM], 1), mask([2, 9], |b, i| b == 0 && i < 5));
            for device in common::devices() {
                let out = run(&device, &params, &[("x", &x), ("m", &m)], |p, v| {
                    let y = ff.forward(p, v[0], &Route { mask: Some(v[1]), ..ff.route() });
                    let grads = p.graph().grad((y * y.sin()).sum_all(), &[v[0], p.get("router.routing_token")]);
                    [vec![y], grads.iter().filter_map(|g| g.dense()).collect()].concat()
                });
                assert!(out.iter().all(|t| t.floats().iter().all(|v| v.is_finite())), "{:?} on {device}", ff);
            }
        }
    }
}

#[test]
fn random_routes_have_scores_of_one_and_change_with_the_site() {
    let mut params = Params::new(3);
    let router = Router::new(&mut params, "", DIM, &RouterConfig::default(), 2).unwrap_or_else(|e| panic!("{e}"));
    let x = noise(&[2, 40, DIM], 1);
    let m = mask([2, 40], |b, i| b == 0 || i % 3 == 0);
    for device in common::devices() {
        let out = run(&device, &params, &[("x", &x), ("m", &m)], |p, v| {
            let route = Route { random_route: true, mask: Some(v[1]), site: 7, ..Route::new(9) };
            let (a, b) = (router.forward(p, v[0], &route), router.forward(p, v[0], &Route { site: 8, ..route }));
            [a, b].iter().flat_map(|r| [r.scores, r.indices.unwrap_or(r.scores), r.mask.unwrap_or(r.scores)]).collect()
        });
        assert!(out.iter().step_by(3).all(|t| t.floats().iter().all(|v| *v == 1.0)));
        assert!(out.iter().skip(2).step_by(3).all(|t| t.ints().iter().all(|v| *v == 1)));
        assert_ne!(out[1], out[4]);
        for row in out[1].ints().chunks(9) {
            let mut row = row.to_vec();
            row.sort_unstable();
            row.dedup();
            assert_eq!(row.len(), 9);
        }
    }
}

#[test]
fn a_routing_token_that_looks_first_routes_by_what_there_is() {
    let config = CoordinateDescentRouterConfig {
        source_attention: Some(SourceAttention { heads: 2, dim_head: 4 }),
        straight_through: false,
        ..Default::default()
    };
    let mut params = Params::new(4);
    let router = Router::new(&mut params, "", DIM, &config.into(), 3).unwrap_or_else(|e| panic!("{e}"));
    let x = noise(&[2, 21, DIM], 3);
    let m = mask([2, 21], |b, i| b == 0 || i < 15);
    let mut values = x.floats().to_vec();
    values[(21 + 15) * DIM..].iter_mut().for_each(|v| *v += 3.0);
    let hidden = Tensor::f32([2, 21, DIM], values).expect("the same shape");
    for device in common::devices() {
        let go = |x: &Tensor| {
            run(&device, &params, &[("x", x), ("m", &m)], |p, v| {
                let routed = router.forward(p, v[0], &Route { mask: Some(v[1]), ..Route::new(4) });
                let loss = (routed.scores * routed.scores.cos()).sum_all();
                let names = ["routing_token", "routing_attn.to_q.weight", "routing_attn.to_kv.weight"];
                let wrt = names.map(|n| p.get(n));
                let grads: Vec<_> = p.graph().grad(loss, &wrt).iter().filter_map(|g| g.dense()).collect();
                [vec![routed.scores], grads].concat()
            })
        };
        let (seen, unseen) = (go(&x), go(&hidden));
        assert_eq!(seen.len(), 4);
        assert!(seen.iter().all(|t| t.floats().iter().any(|v| v.abs() > 1e-5)), "a gradient is 0");
        // Masked tokens have no part in it.
        assert_close("masked", seen[0].floats(), unseen[0].floats());
    }
}

#[test]
fn coordinate_descent_attention_trains() {
    let mut params = Params::new(5);
    let descent = DescentKeys { k: 2.0, how: SoftTopK::exact(0.3), normalize: true };
    let config = AttentionConfig { heavy_descent: Some(descent), num_routed_kv: 2, ..attention() };
    let module = ConditionalRoutedAttention::new(&mut params, "", config).unwrap_or_else(|e| panic!("{e}"));
    let x = noise(&[2, 20, DIM], 8);
    for device in common::devices() {
        let out = run(&device, &params, &[("x", &x)], |p, v| {
            let out = module.forward(p, v[0], &module.route());
            let wrt = [p.get("heavy_attn.to_q.weight"), p.get("heavy_attn.null_kv"), v[0]];
            let grads =
                p.graph().grad((out * out).sum_all(), &wrt).iter().filter_map(|g| g.dense()).collect::<Vec<_>>();
            [vec![out], grads].concat()
        });
        assert_eq!(out.len(), 4);
        for tensor in &out {
            assert_eq!(tensor.ty().dtype, DType::F32);
            assert!(tensor.floats().iter().all(|v| v.is_finite()) && tensor.floats().iter().any(|v| *v != 0.0));
        }
    }
}
