//! Edges that the generic checks do not see, because the oracle shares the code: each test here was written for a change of the
//! code that no other test noticed.

use crate::common;
use wgrad::nn::{BankType, Storage};
use wgrad::ops::attention::Attention;
use wgrad::ops::rotary::Rotary;
use wgrad::ops::select::top_k::TopK;
use wgrad::{Device, Feed, Graph, Tensor, Var};

/// What a graph without inputs computes.
fn values(device: &Device, graph: &Graph, y: Var<'_>) -> Tensor {
    let plan = device.compile_blocking(graph, &[("y", y)]).unwrap_or_else(|e| panic!("{e}"));
    plan.run(&Feed::new()).unwrap_or_else(|e| panic!("{e}"));
    plan.read_blocking("y").unwrap_or_else(|e| panic!("{e}"))
}

/// Numbers of a shape, none like another.
fn numbers<'g>(graph: &'g Graph, shape: &[usize]) -> Var<'g> {
    let n = shape.iter().product::<usize>();
    let values = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
    graph.constant(Tensor::f32(shape, values).unwrap_or_else(|e| panic!("{e}")))
}

fn integers<'g>(graph: &'g Graph, values: &[u32]) -> Var<'g> {
    graph.constant(Tensor::u32([values.len()], values.to_vec()).unwrap_or_else(|e| panic!("{e}")))
}

#[test]
fn probabilities_of_shared_heads_pass_through_the_closure() {
    for device in common::devices() {
        for heads in [1, 2, 4] {
            let graph = Graph::new();
            let q = numbers(&graph, &[1, 4, 3, 6]);
            let (k, v) = (numbers(&graph, &[1, heads, 5, 6]), numbers(&graph, &[1, heads, 5, 2]));
            let options = Attention::default();
            let plain = values(&device, &graph, q.attention(k, v, &options).out);
            let tripled = values(&device, &graph, q.attention_composed(k, v, &options, |p| p * 3.0));
            for (a, b) in plain.floats().iter().zip(tripled.floats()) {
                assert!((3.0 * a - b).abs() < 1e-5, "{heads} heads of keys on {device}: {a}, {b}");
            }
        }
    }
}

#[test]
fn positions_may_be_a_view() {
    for device in common::devices() {
        let graph = Graph::new();
        let x = numbers(&graph, &[2, 4, 6]);
        let pairs = graph.iota([4, 2], 0) * 10 + graph.iota([4, 2], 1);
        let column = pairs.slice(1, 1, 1).reshape([4]);
        let view = values(&device, &graph, x.rotary(column, &Rotary::default()));
        let dense = values(&device, &graph, x.rotary(integers(&graph, &[1, 11, 21, 31]), &Rotary::default()));
        assert_eq!(view, dense, "{device}");
    }
}

#[test]
fn a_hit_one_past_the_last_row_is_dropped() {
    for device in common::devices() {
        let graph = Graph::new();
        let rows =
            graph.constant(Tensor::f32([5, 1], vec![1.0, 2.0, 4.0, 8.0, 16.0]).unwrap_or_else(|e| panic!("{e}")));
        let sums = rows.scatter_add(integers(&graph, &[3, 0, 2, 3, 0]), 3);
        assert_eq!(values(&device, &graph, sums).floats(), [18.0, 0.0, 4.0], "{device}");
    }
}

#[test]
fn pairs_of_two_given_lists() {
    for device in common::devices() {
        let graph = Graph::new();
        let list = |values: Vec<f32>, indices: &[u32]| {
            let values = Tensor::f32([values.len()], values).unwrap_or_else(|e| panic!("{e}"));
            TopK { values: graph.constant(values), indices: integers(&graph, indices) }
        };
        let best = list(vec![4.0, 2.0, 1.0], &[7, 0, 3]).product(list(vec![3.0, 1.0], &[2, 9]), 10, 4);
        // 4 + 3, then 4 + 1 and 2 + 3 in the order of the rows, then 1 + 3.
        assert_eq!(values(&device, &graph, best.values).floats(), [7.0, 5.0, 5.0, 4.0], "{device}");
        assert_eq!(values(&device, &graph, best.indices).ints(), [72, 79, 2, 32], "{device}");
    }
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let refused = |build: &dyn Fn(&Graph)| {
        let graph = Graph::new();
        build(&graph);
        graph.error().map(|e| e.to_string()).unwrap_or_default()
    };
    let write = |shape: &'static [usize]| {
        refused(&|g| {
            numbers(g, &[2, 7, 3]).write_rows(numbers(g, shape), g.full_u32([], 0));
        })
    };
    assert_eq!(write(&[2, 4, 3]), "");
    for shape in [&[2, 4, 5][..], &[1, 4, 3], &[4, 3], &[1, 2, 4, 3]] {
        assert!(write(shape).contains("must agree with the cache"), "{shape:?}: {}", write(shape));
    }
    let score = |width: usize| {
        refused(&|g| {
            let bank = BankType::new(Storage::F32, 6, 4, 1 << 20).unwrap_or_else(|e| panic!("{e}")).state(g, "bank");
            bank.scores(numbers(g, &[1, 2, width]), 6);
        })
    };
    assert_eq!(score(4), "");
    assert!(score(5).contains("rows of 5 features need pieces"), "{}", score(5));
}

/// exp of minus the largest score is infinite then, and was multiplied by the number of zero keys, which is 0.
#[test]
fn attention_whose_scores_all_lie_far_below_zero_is_finite() {
    for device in common::devices() {
        for score in [-80.0f32, -100.0, -1e4] {
            let graph = Graph::new();
            let [q, k] = [score, 1.0].map(|x| graph.full([1, 1, 3, 1], f64::from(x)));
            let attended =
                q.attention(k, numbers(&graph, &[1, 1, 3, 2]), &Attention { causal: true, ..Default::default() });
            let y = values(&device, &graph, attended.out);
            let v = values(&device, &graph, numbers(&graph, &[1, 1, 3, 2]).sum_all() / 3.0);
            // Equal scores: the last query sees the mean of all values.
            let last: f32 = y.floats().iter().skip(4).sum();
            assert!((last - v.floats()[0]).abs() < 1e-5, "{score} on {device}: {:?}", y.floats());
        }
    }
}
