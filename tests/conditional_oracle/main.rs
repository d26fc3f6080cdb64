//! Modules of conditional routing, with random options, against plain code in double precision: values, and the gradient
//! by inputs and parameters along a random direction. Seeds are fixed; `WGRAD_ORACLE_CASES=n` runs n cases of each test.

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod oracle;
mod plain;

use cases::{BATCH, Case, DIM, Random, cases, count_tensor, mask_tensor, sequences};
use common::modules::noise;
use oracle::Sequence;
use wgrad::models::conditional::*;
use wgrad::nn::Params;

/// What a call says of sample `b`.
fn of<'a>(
    mask: &'a Option<Vec<Vec<bool>>>,
    count: &Option<Vec<usize>>,
    b: usize,
) -> (Option<&'a [bool]>, Option<usize>) {
    (mask.as_ref().map(|mask| &mask[b][..]), count.as_ref().map(|count| count[b]))
}

#[test]
fn attention() {
    let mut random = Random(7);
    for case in cases(60) {
        let router = random.router();
        let a = random.attention(&router);
        let n = random.one_of(&[19, 16, 7, 24, 3]);
        let (mask, q, kv) =
            (random.masks(n), random.counts(a.num_heavy_tokens_q), random.counts(a.num_heavy_tokens_kv));
        let mut params = Params::new(u64::from(case));
        let module = ConditionalRoutedAttention::new(&mut params, "", a.clone()).unwrap();
        let (x, live) = (noise(&[BATCH, n, DIM], case), mask_tensor(&mask, n));
        let inputs = [("x", &x), ("mask", &live), ("q", &count_tensor(&q)), ("kv", &count_tensor(&kv))];
        let what = format!("attention {case}: mask {mask:?} counts {q:?} {kv:?} {a:?}");
        Case { what, params: &params, inputs: &inputs, live: live.clone() }.check(
            |p, v| {
                let mut route = module.route();
                route.mask = mask.as_ref().map(|_| v[1]);
                route.counts_q = q.as_ref().map(|_| v[2]);
                route.counts_kv = kv.as_ref().map(|_| v[3]);
                module.forward(p, v[0], &route)
            },
            |oracle, x| {
                let one = |(b, tokens): (usize, &_)| {
                    let (mask, count) = of(&mask, &q, b);
                    let queries = Sequence { tokens, mask, count };
                    let keys = Sequence { count: of(&None, &kv, b).1, ..queries };
                    let mut out = oracle.branch(&a, [&router, &router], queries, keys, 0);
                    if a.has_light_attn {
                        let light = oracle.light(&a, queries, a.light_window_size / 2, false);
                        out.iter_mut().flatten().zip(light.iter().flatten()).for_each(|(o, l)| *o += l);
                    }
                    out
                };
                sequences(x).iter().enumerate().map(one).collect()
            },
        );
    }
}

#[test]
fn feed_forward() {
    let mut random = Random(5);
    for case in cases(30) {
        let router = random.router();
        let (k, n) = (random.count(), random.one_of(&[19, 16, 7, 3]));
        let (mask, count) = (random.masks(n), random.counts(k));
        let config = FeedForwardConfig {
            router: router.clone().into(),
            heavy_ff_mult: random.one_of(&[1.5, 4.0]),
            ..FeedForwardConfig::new(DIM, k)
        };
        let mut params = Params::new(u64::from(case));
        let module = ConditionalRoutedFeedForward::new(&mut params, "", config.clone()).unwrap();
        let (x, live) = (noise(&[BATCH, n, DIM], case), mask_tensor(&mask, n));
        let inputs = [("x", &x), ("mask", &live), ("count", &count_tensor(&count))];
        let what = format!("feed-forward {case}: mask {mask:?} counts {count:?} {config:?}");
        Case { what, params: &params, inputs: &inputs, live: live.clone() }.check(
            |p, v| {
                let mut route = module.route();
                route.mask = mask.as_ref().map(|_| v[1]);
                route.counts = count.as_ref().map(|_| v[2]);
                module.forward(p, v[0], &route)
            },
            |oracle, x| {
                let one = |(b, tokens): (usize, &_)| {
                    let (mask, count) = of(&mask, &count, b);
                    oracle.feed_forward(&router, k, Sequence { tokens, mask, count })
                };
                sequences(x).iter().enumerate().map(one).collect()
            },
        );
    }
}

#[test]
fn cross_attention() {
    let mut random = Random(11);
    for case in cases(40) {
        let kv_router = random.router();
        // Cross attention heeds the option no more than the package did.
        let plain_kv = CoordinateDescentRouterConfig { route_equal: false, ..kv_router.clone() };
        let q_router = CoordinateDescentRouterConfig { route_block_size: None, ..kv_router.clone() };
        let plain_q = CoordinateDescentRouterConfig { route_equal: false, ..q_router.clone() };
        let a = AttentionConfig { rotary_emb: false, multiply_queries_by_score: false, ..random.attention(&kv_router) };
        let config = CrossAttentionConfig {
            dim_head: a.heavy_dim_head,
            heads: a.heavy_heads,
            router: q_router.clone().into(),
            kv_routing_tokens: a.num_routed_kv,
            multiply_keys_by_score: a.multiply_keys_by_score,
            use_null_q_tokens: a.use_null_q_tokens,
            use_null_kv: a.use_null_kv,
            route_block_size: kv_router.route_block_size,
            ..CrossAttentionConfig::new(DIM, a.num_heavy_tokens_q, a.num_heavy_tokens_kv)
        };
        let (n, m) = (random.one_of(&[4, 13]), random.one_of(&[5, 23]));
        let (mask_q, mask_kv) = (random.masks(n), random.masks(m));
        let (q, kv) = (random.counts(a.num_heavy_tokens_q), random.counts(a.num_heavy_tokens_kv));
        let mut params = Params::new(u64::from(case));
        let module = ConditionalRoutedCrossAttention::new(&mut params, "", config.clone()).unwrap();
        let (x, y) = (noise(&[BATCH, n, DIM], case), noise(&[BATCH, m, DIM], case + 1000));
        let (live, exists) = (mask_tensor(&mask_q, n), mask_tensor(&mask_kv, m));
        let (count_q, count_kv) = (count_tensor(&q), count_tensor(&kv));
        let inputs = [("x", &x), ("y", &y), ("mask", &live), ("exists", &exists), ("q", &count_q), ("kv", &count_kv)];
        let what = format!("cross {case}: {mask_q:?} {mask_kv:?} counts {q:?} {kv:?} {config:?}");
        let context = sequences(&y.floats().iter().map(|v| f64::from(*v)).collect::<Vec<f64>>());
        Case { what, params: &params, inputs: &inputs, live: live.clone() }.check(
            |p, v| {
                let mut route = module.route();
                route.queries.mask = mask_q.as_ref().map(|_| v[2]);
                route.context.mask = mask_kv.as_ref().map(|_| v[3]);
                route.queries.counts = q.as_ref().map(|_| v[4]);
                route.context.counts = kv.as_ref().map(|_| v[5]);
                module.forward(p, v[0], v[1], &route)
            },
            |oracle, x| {
                let one = |(b, tokens): (usize, &_)| {
                    let ((mask, count), (exists, keys)) = (of(&mask_q, &q, b), of(&mask_kv, &kv, b));
                    let keys = Sequence { tokens: &context[b], mask: exists, count: keys };
                    oracle.branch(&a, [&plain_q, &plain_kv], Sequence { tokens, mask, count }, keys, 0)
                };
                sequences(x).iter().enumerate().map(one).collect()
            },
        );
    }
}

#[test]
fn autoregressive() {
    let mut random = Random(23);
    for case in cases(40) {
        let router = random.router();
        let a = AttentionConfig { has_light_attn: true, ..random.attention(&router) };
        let w = random.one_of(&[3, 5, 8, 4]);
        let n = random.one_of(&[1, w, w + 1, 2 * w, 3 * w + 2, 17]);
        let config = AutoregressiveConfig { attention: a.clone(), heavy_window_size: Some(w) };
        let mut params = Params::new(u64::from(case));
        let module = ConditionalRoutedAutoregressiveAttention::new(&mut params, "", config).unwrap();
        let x = noise(&[BATCH, n, DIM], case);
        let what = format!("autoregressive {case}: n {n} w {w} {a:?}");
        Case { what, params: &params, inputs: &[("x", &x)], live: mask_tensor(&None, n) }.check(
            |p, v| module.forward(p, v[0], &module.route()),
            |oracle, x| sequences(x).iter().map(|x| oracle.autoregressive(&a, &router, w, x)).collect(),
        );
    }
}
