//! Plans found again by what they compute.

use crate::common;
use std::sync::Arc;
use wgrad::{Device, Error, Feed, Graph, Options, PlanCache, Tensor, TensorType, Var};

/// `sum(x * c)` for a constant.
fn scaled<'g>(graph: &'g Graph, constant: &[f32]) -> Var<'g> {
    let n = constant.len();
    let c = Tensor::f32([n], constant.to_vec()).expect("as many elements as the shape has");
    (graph.input("x", TensorType::f32([n])) * graph.constant(c)).sum_all()
}

fn get(plans: &PlanCache, build: impl Fn(&Graph) -> Var<'_>) -> Arc<wgrad::Plan> {
    let graph = Graph::new();
    let y = build(&graph);
    plans.compile_blocking(&graph, &[("y", y)]).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn equal_graphs_share_a_plan_and_others_do_not() {
    for device in common::devices() {
        let plans = PlanCache::new(&device, 32).expect("room");
        let first = get(&plans, |g| scaled(g, &[1.0, 2.0]));
        assert!(Arc::ptr_eq(&first, &get(&plans, |g| scaled(g, &[1.0, 2.0]))));
        // Constants, their signs of zero, shapes, attributes, names, options and state updates all count.
        let others = [
            get(&plans, |g| scaled(g, &[1.0, 3.0])),
            get(&plans, |g| scaled(g, &[1.0, 2.0, 3.0])),
            get(&plans, |g| scaled(g, &[1.0, 0.0])),
            get(&plans, |g| scaled(g, &[1.0, -0.0])),
            get(&plans, |g| g.input("x", TensorType::f32([2, 3])).sum(0)),
            get(&plans, |g| g.input("x", TensorType::f32([2, 3])).sum(1)),
            get(&plans, |g| g.input("z", TensorType::f32([2, 3])).sum(1)),
            get(&plans, |g| g.state("x", TensorType::f32([2, 3])).sum(1)),
            get(&plans, |g| {
                let x = g.state("x", TensorType::f32([2, 3]));
                g.assign(x, x + 1.0);
                x.sum(1)
            }),
        ];
        let graph = Graph::new();
        let y = scaled(&graph, &[1.0, 2.0]);
        let plain = Options { fuse: false, reuse: false };
        let plain = pollster::block_on(plans.compile_with(&graph, &[("y", y)], plain)).expect("compiles");
        let renamed = plans.compile_blocking(&graph, &[("z", y)]).expect("compiles");
        let mut all: Vec<_> = others.into_iter().chain([first.clone(), plain, renamed]).collect();
        all.sort_by_key(Arc::as_ptr);
        all.dedup_by_key(|p| Arc::as_ptr(p));
        assert_eq!((all.len(), plans.len(), plans.stats().misses, plans.stats().hits), (12, 12, 12, 1));
        assert!(plans.bytes() >= first.bytes());
        plans.clear();
        assert!(plans.is_empty());
    }
}

#[test]
fn the_plan_unused_longest_makes_room() {
    let plans = PlanCache::new(&Device::cpu(), 2).expect("room");
    let of = |n: usize| get(&plans, |g| scaled(g, &vec![1.0; n]));
    let (one, two) = (of(1), of(2));
    assert!(Arc::ptr_eq(&one, &of(1)));
    of(3);
    assert!(Arc::ptr_eq(&one, &of(1)), "the one used later stays");
    assert!(!Arc::ptr_eq(&two, &of(2)), "the one unused longest went");
    assert_eq!((plans.len(), plans.stats().evictions), (2, 2));
    // Who still holds it may use it.
    let x = Tensor::f32([2], vec![1.0, 2.0]).expect("a tensor");
    two.run(&Feed::new().input("x", &x)).expect("runs");
    assert_eq!(two.read_blocking("y").expect("reads").floats(), [3.0]);
}

#[test]
fn nothing_is_compiled_again_on_the_device() {
    // A device of its own: other tests make buffers meanwhile.
    let Some(device) = common::fresh(common::options()) else { return };
    if let Some(gpu) = device.as_gpu() {
        let plans = PlanCache::new(&device, 4).expect("room");
        get(&plans, |g| scaled(g, &[1.0, 2.0]));
        let before = gpu.counters.snapshot();
        get(&plans, |g| scaled(g, &[1.0, 2.0]));
        assert_eq!(gpu.counters.snapshot(), before);
    }
}

#[test]
fn errors_are_those_of_compiling_and_nothing_is_kept() {
    let plans = PlanCache::new(&Device::cpu(), 2).expect("room");
    assert!(matches!(PlanCache::new(&Device::cpu(), 0), Err(Error::Argument { .. })));
    let graph = Graph::new();
    let (a, b) = (graph.input("a", TensorType::f32([2])), graph.input("b", TensorType::f32([3])));
    let y = a + b;
    for _ in 0..2 {
        assert!(matches!(plans.compile_blocking(&graph, &[("y", y)]), Err(Error::Shape { .. })));
    }
    let (mine, foreign) = (Graph::new(), Graph::new());
    scaled(&mine, &[1.0]);
    let y = scaled(&foreign, &[1.0]);
    assert!(plans.compile_blocking(&foreign, &[("y", y)]).is_ok());
    assert!(plans.compile_blocking(&mine, &[("y", y)]).is_err(), "a variable of another graph");
    assert_eq!(plans.len(), 1);
}
