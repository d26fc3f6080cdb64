//! Edges that the generic checks do not see, because the oracle shares the code: each test here was written for a change of the
//! code that no other test noticed.

use crate::common;
use wgrad::nn::{BankType, Storage};
use wgrad::ops::attention::Attention;
use wgrad::ops::attention::descent::DescentAttention;
use wgrad::ops::rotary::Rotary;
use wgrad::ops::route::sinkhorn::Sinkhorn;
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

#[test]
fn entries_are_taken_along_an_axis_in_the_middle() {
    for device in common::devices() {
        let graph = Graph::new();
        let x = graph.iota([2, 3, 2], 1) * 10 + graph.iota([2, 3, 2], 0) * 100 + graph.iota([2, 3, 2], 2);
        let which = integers(&graph, &[2, 0, 1, 1, 0, 2, 3, 0]).reshape([2, 2, 2]);
        let taken = values(&device, &graph, x.take_along(which, 1));
        assert_eq!(taken.ints(), [20, 1, 10, 11, 100, 121, 0, 101], "{device}");
        let sums = values(&device, &graph, taken_floats(&graph).scatter_along(which, 1, 3));
        assert_eq!(sums.floats(), [0.0, 2.0, 3.0, 4.0, 1.0, 0.0, 5.0, 8.0, 0.0, 0.0, 0.0, 6.0], "{device}");
    }
}

/// 1 to 8.
fn taken_floats(graph: &Graph) -> Var<'_> {
    graph.iota([8], 0).to_f32().reshape([2, 2, 2]) + 1.0
}

#[test]
fn noise_is_added_to_the_scores() {
    for device in common::devices() {
        let graph = Graph::new();
        let scores = numbers(&graph, &[3, 5]);
        let noisy = Sinkhorn { gumbel: Some(4), ..Sinkhorn::default() };
        let inside = values(&device, &graph, scores.sinkhorn(&noisy, None));
        let outside = (scores + graph.gumbel([3, 5], 4)).sinkhorn(&Sinkhorn::default(), None);
        assert_eq!(inside, values(&device, &graph, outside), "{device}");
    }
}

/// What the mean is rounded by must not meet the mean itself again.
#[test]
fn rows_far_from_zero_are_normalized() {
    for device in common::devices() {
        let graph = Graph::new();
        let x = Tensor::f32([1, 3], vec![8190.0, 8191.0, 8193.0]).unwrap_or_else(|e| panic!("{e}"));
        let y = values(&device, &graph, graph.constant(x).layer_norm(None, None, 1e-5));
        for (y, want) in y.floats().iter().zip([-1.069_04, -0.267_26, 1.336_31]) {
            assert!((y - want).abs() < 1e-3, "{device}: {y}, {want}");
        }
    }
}

/// More candidates than a workgroup takes, and rows in two dimensions.
#[test]
fn pairs_of_many_long_lists() {
    for device in common::devices() {
        let graph = Graph::new();
        let (x, y) = (numbers(&graph, &[4, 700]), numbers(&graph, &[4, 650]) * 0.7);
        let flat = x.product_top_k(y, 640);
        let deep = x.reshape([2, 2, 700]).product_top_k(y.reshape([2, 2, 650]), 640);
        let indices = values(&device, &graph, flat.indices);
        assert_eq!(indices.ints(), values(&device, &graph, deep.indices).ints(), "{device}");
        assert_eq!(
            values(&device, &graph, flat.values).floats(),
            values(&device, &graph, deep.values).floats(),
            "{device}"
        );
    }
}

/// A value that is picked from and used whole has both gradients.
#[test]
fn gradients_of_rows_and_of_the_whole_add_up() {
    for device in common::devices() {
        let graph = Graph::new();
        let x = graph.constant(Tensor::f32([3, 1], vec![1.0, 2.0, 4.0]).unwrap_or_else(|e| panic!("{e}")));
        let loss = x.gather(integers(&graph, &[2, 0, 2])).sum_all() * 10.0 + x.square().sum_all();
        let slope = graph.grad(loss, &[x])[0].dense().unwrap_or_else(|| panic!("a gradient"));
        assert_eq!(values(&device, &graph, slope).floats(), [12.0, 4.0, 28.0], "{device}");
    }
}

#[test]
fn attention_by_descent_refuses_what_does_not_fit() {
    let refused = |k: &[usize], v: &[usize]| {
        let graph = Graph::new();
        numbers(&graph, &[2, 4, 3, 6]).descent_attention(
            numbers(&graph, k),
            numbers(&graph, v),
            &DescentAttention::default(),
        );
        graph.error().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(refused(&[2, 2, 5, 6], &[2, 2, 5, 3]), "");
    for (k, v) in [
        ([2, 0, 5, 6], [2, 0, 5, 3]),
        ([2, 3, 5, 6], [2, 3, 5, 3]),
        ([1, 2, 5, 6], [1, 2, 5, 3]),
        ([2, 2, 5, 6], [2, 2, 4, 3]),
        ([2, 2, 5, 6], [2, 4, 5, 3]),
    ] {
        assert!(refused(&k, &v).starts_with("attention"), "{k:?} {v:?}: {}", refused(&k, &v));
    }
}

/// One sum after the other would be off by a hundredth.
#[test]
fn long_running_sums_keep_their_digits() {
    let n = 1 << 20;
    for device in common::devices() {
        let graph = Graph::new();
        let sums = values(&device, &graph, graph.full([n], 0.1).cumsum(0));
        let (last, want) = (sums.floats()[n - 1], 0.1f32 as f64 * n as f64);
        assert!((f64::from(last) / want - 1.0).abs() < 1e-4, "{device}: {last}, {want}");
    }
}

/// What a row that nothing hits lies in held something else before.
#[test]
fn rows_without_hits_are_zero_in_memory_that_was_used() {
    for device in common::devices() {
        let graph = Graph::new();
        let used = numbers(&graph, &[8, 4]).matmul(numbers(&graph, &[4, 1]));
        let rows = graph.full([2, 1], 1.0) * used.square().sum_all();
        let sums = rows.scatter_add(integers(&graph, &[3, 5]), 8);
        let sums = values(&device, &graph, sums.gt(0.0).select(graph.full([8, 1], 1.0), sums));
        assert_eq!(sums.floats(), [0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0], "{device}");
    }
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
