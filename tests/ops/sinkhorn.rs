//! What Sinkhorn's iteration promises: sums of rows and columns, at any size and for any finite scores.

use crate::common;
use wgrad::ops::route::sinkhorn::{Sinkhorn, SinkhornGradient};
use wgrad::{Device, Feed, Graph, Tensor, TensorType};

/// Scores in (-2, 2), the same on every platform.
fn scores(n: usize) -> Vec<f32> {
    let unit = |i: usize| (i as u32).wrapping_mul(2_654_435_761) as f32 / 4_294_967_296.0;
    (0..n).map(|i| 4.0 * unit(i + 1) - 2.0).collect()
}

/// Plan and gradient of `sum(plan * plan)`.
fn run(device: &Device, shape: [usize; 2], data: &[f32], options: &Sinkhorn, mask: Option<&[u32]>) -> [Vec<f32>; 2] {
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32(shape));
    let tokens = mask.map(|m| graph.constant(Tensor::u32([shape[1]], m.to_vec()).unwrap()));
    let plan = x.sinkhorn(options, tokens);
    let gradient = graph.grad((plan * plan).sum_all(), &[x])[0].dense().unwrap();
    let compiled = device.compile_blocking(&graph, &[("plan", plan), ("gradient", gradient)]).unwrap();
    let input = Tensor::f32(shape, data.to_vec()).unwrap();
    compiled.run(&Feed::new().input("x", &input)).unwrap();
    ["plan", "gradient"].map(|name| compiled.read_blocking(name).unwrap().floats().to_vec())
}

fn row_sums(plan: &[f32], tokens: usize) -> Vec<f32> {
    plan.chunks(tokens).map(|row| row.iter().map(|x| f64::from(*x)).sum::<f64>() as f32).collect()
}

fn column_sums(plan: &[f32], tokens: usize) -> Vec<f32> {
    let column = |j| plan.iter().skip(j).step_by(tokens).map(|x| f64::from(*x)).sum::<f64>() as f32;
    (0..tokens).map(column).collect()
}

fn assert_all(what: &str, sums: &[f32], want: f32, tolerance: f32) {
    for (i, s) in sums.iter().enumerate() {
        assert!((s - want).abs() <= tolerance * want.max(1.0), "{what} {i} sums to {s}, not {want}");
    }
}

#[test]
fn converged_plans_have_both_sums() {
    let options = Sinkhorn { iterations: 60, ..Sinkhorn::default() };
    for device in common::devices() {
        for [n, m] in [[4, 11], [7, 7], [12, 5], [3, 260]] {
            let [plan, _] = run(&device, [n, m], &scores(n * m), &options, None);
            assert_all("column", &column_sums(&plan, m), 1.0, 1e-5);
            assert_all("row", &row_sums(&plan, m), m as f32 / n as f32, 1e-5);
            // Hidden tokens take nothing; the others are shared out as if they were alone.
            let mask: Vec<u32> = (0..m as u32).map(|j| u32::from(j % 3 > 0)).collect();
            let valid = mask.iter().sum::<u32>() as f32;
            let [plan, _] = run(&device, [n, m], &scores(n * m), &options, Some(&mask));
            for (s, k) in column_sums(&plan, m).iter().zip(&mask) {
                assert!((s - *k as f32).abs() < 1e-5, "{s} for {k}");
            }
            assert_all("row", &row_sums(&plan, m), valid / n as f32, 1e-5);
        }
    }
}

/// The implicit gradient is that of the limit; with few iterations the two differ.
#[test]
fn implicit_gradient_is_the_limit_of_the_unrolled_one() {
    let far = |gradient| Sinkhorn { iterations: 100, gradient, ..Sinkhorn::default() };
    for device in common::devices() {
        let data = scores(6 * 24);
        let [_, a] = run(&device, [6, 24], &data, &far(SinkhornGradient::Unrolled), None);
        let [_, b] = run(&device, [6, 24], &data, &far(SinkhornGradient::Implicit { iterations: 100 }), None);
        let scale = a.iter().fold(0.0f32, |s, x| s.max(x.abs()));
        let worst = a.iter().zip(&b).fold(0.0f32, |w, (x, y)| w.max((x - y).abs()));
        assert!(worst < 1e-4 * scale, "{worst} of {scale}");
    }
}

/// Columns sum to 1 and nothing is infinite, whatever the scores.
#[test]
fn any_finite_scores_will_do() {
    let (n, m) = (5, 70);
    let plain = scores(n * m);
    let fill = |f: &dyn Fn(usize, f32) -> f32| plain.iter().enumerate().map(|(i, x)| f(i, *x)).collect::<Vec<f32>>();
    let cases = [
        ("one value", fill(&|_, _| 7.0)),
        ("one huge value", fill(&|_, _| f32::MAX)),
        ("one value far below", fill(&|_, _| f32::MIN)),
        ("both ends", fill(&|_, x| if x > 0.0 { f32::MAX } else { f32::MIN })),
        ("one finite score", fill(&|i, x| if i == 77 { x } else { f32::MIN })),
        ("a column far below", fill(&|i, x| if i % m == 3 { f32::MIN } else { x })),
        ("a row far above", fill(&|i, x| if i / m == 2 { 3e38 } else { x })),
        ("far apart", fill(&|_, x| x * 1e6)),
        ("shifted", fill(&|_, x| x + 1e7)),
        ("denormals", fill(&|i, _| f32::from_bits(i as u32 + 1))),
    ];
    for device in common::devices() {
        for (name, data) in &cases {
            let [plan, gradient] = run(&device, [n, m], data, &Sinkhorn::default(), None);
            assert_all(name, &column_sums(&plan, m), 1.0, 1e-5);
            assert!(gradient.iter().all(|g| g.is_finite()), "{name}: {gradient:?}");
            let hidden = vec![0; m];
            let [plan, gradient] = run(&device, [n, m], data, &Sinkhorn::default(), Some(&hidden));
            assert!(plan.iter().chain(&gradient).all(|x| *x == 0.0), "{name}, nothing visible");
        }
    }
}

/// A score that is no finite number spoils its own block at most.
#[test]
fn blocks_do_not_disturb_each_other() {
    const EACH: usize = 4 * 9;
    let shape = [3, 4, 9];
    let fine = scores(3 * EACH);
    for device in common::devices() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let plans = [None, Some(bad)].map(|bad| {
                let mut data = fine.clone();
                data[EACH + 5] = bad.unwrap_or(data[EACH + 5]);
                let graph = Graph::new();
                let x = graph.input("x", TensorType::f32(shape));
                let plan = x.sinkhorn(&Sinkhorn::default(), None);
                let gradient = graph.grad((plan * plan).sum_all(), &[x])[0].dense().unwrap();
                let compiled = device.compile_blocking(&graph, &[("plan", plan), ("gradient", gradient)]).unwrap();
                compiled.run(&Feed::new().input("x", &Tensor::f32(shape, data).unwrap())).unwrap();
                ["plan", "gradient"].map(|name| compiled.read_blocking(name).unwrap().floats().to_vec())
            });
            for (a, b) in plans[0].iter().zip(&plans[1]) {
                assert_eq!(a[..EACH], b[..EACH], "{bad} on {device}");
                assert_eq!(a[2 * EACH..], b[2 * EACH..], "{bad} on {device}");
            }
        }
    }
}

/// As many tokens as a long document has, and more lines than one dimension of a grid.
#[test]
fn many_tokens() {
    let options = Sinkhorn { iterations: 3, ..Sinkhorn::default() };
    for device in common::devices() {
        for [n, m] in [[2, 70_001], [70_001, 2]] {
            let [plan, gradient] = run(&device, [n, m], &scores(n * m), &options, None);
            assert_all("column", &column_sums(&plan, m), 1.0, 1e-5);
            assert!(gradient.iter().any(|g| *g != 0.0));
        }
    }
}

#[test]
fn impossible_options_are_errors() {
    let wrong = [
        Sinkhorn { iterations: 0, ..Sinkhorn::default() },
        Sinkhorn { temperature: 0.0, ..Sinkhorn::default() },
        Sinkhorn { temperature: f64::NAN, ..Sinkhorn::default() },
        Sinkhorn { gradient: SinkhornGradient::Implicit { iterations: 0 }, ..Sinkhorn::default() },
    ];
    for options in wrong {
        let graph = Graph::new();
        graph.input("x", TensorType::f32([2, 3])).sinkhorn(&options, None);
        assert!(graph.error().is_some(), "{options:?}");
    }
    let graph = Graph::new();
    let mask = graph.full_u32([2], 1);
    graph.input("x", TensorType::f32([2, 3])).sinkhorn(&Sinkhorn::default(), Some(mask));
    assert!(graph.error().is_some_and(|e| e.to_string().contains("[3]")));
}
