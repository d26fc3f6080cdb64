//! Random numbers, dropout, and the order of sums in scatters.

use crate::common;
use wgrad::ops::random::threefry2x32;
use wgrad::{Device, Error, Feed, Graph, Mode, Tensor, TensorType, Var};

/// Published vectors of Random123 (Salmon et al. 2011), threefry2x32 with 20 rounds: key, counter, result.
#[test]
fn threefry_matches_the_published_vectors() {
    let ones = [u32::MAX; 2];
    let pi = ([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]);
    assert_eq!(threefry2x32([0; 2], [0; 2]), [0x6b20_0159, 0x99ba_4efe]);
    assert_eq!(threefry2x32(ones, ones), [0x1cb9_96fc, 0xbb00_2be7]);
    assert_eq!(threefry2x32(pi.0, pi.1), [0xc492_3a9c, 0x483d_f7a0]);
}

fn all_devices() -> Vec<Device> {
    let mut all = common::devices();
    all.push(Device::cpu_f64());
    all
}

fn run(device: &Device, graph: &Graph, outputs: &[(&str, Var<'_>)], feed: &Feed<'_>) -> Vec<Tensor> {
    let plan = device.compile_blocking(graph, outputs).unwrap();
    plan.run(feed).unwrap();
    outputs.iter().map(|(n, _)| plan.read_blocking(n).unwrap()).collect()
}

#[test]
fn streams_differ_by_seed_step_and_site_and_not_by_executor() {
    let graph = Graph::new();
    let (a, b) = (graph.random_bits([3, 1001], 1), graph.random_bits([3003], 2));
    let u = graph.uniform([3003], 1);
    let outputs = [("a", a), ("b", b), ("u", u)];
    let mut seen: Vec<Vec<u32>> = Vec::new();
    for (step, seed) in [(0, 0), (1, 0), (0, 1), (0, 1 << 32), (7, u64::MAX)] {
        let feed = || Feed::new().step(step, seed);
        let want = run(&Device::cpu_f64(), &graph, &outputs, &feed());
        for device in common::devices() {
            assert_eq!(run(&device, &graph, &outputs, &feed()), want, "{device}");
        }
        for (bits, u) in want[0].ints().iter().zip(want[2].floats()) {
            assert_eq!((bits >> 8) as f32 / 16_777_216.0, *u);
        }
        seen.extend(want[..2].iter().map(|t| t.ints().to_vec()));
    }
    for (i, x) in seen.iter().enumerate() {
        for y in &seen[..i] {
            let equal = x.iter().zip(y).filter(|(x, y)| x == y).count();
            assert!(equal < 3, "streams share {equal} of 3,003 numbers");
        }
    }
}

#[test]
fn moments_are_right() {
    let n = 200_000;
    let graph = Graph::new();
    let outputs = [("u", graph.uniform([n], 0)), ("n", graph.normal([n], 1)), ("g", graph.gumbel([n], 2))];
    // Mean and variance of each.
    let gumbel = (0.577_215_664_9, std::f64::consts::PI.powi(2) / 6.0);
    let want = [(0.5, 1.0 / 12.0), (0.0, 1.0), gumbel];
    for device in all_devices() {
        let got = run(&device, &graph, &outputs, &Feed::new().step(2, 9));
        for (t, (mean, variance)) in got.iter().zip(want) {
            let x: Vec<f64> = t.floats().iter().map(|x| f64::from(*x)).collect();
            assert!(x.iter().all(|x| x.is_finite()));
            let m = x.iter().sum::<f64>() / n as f64;
            let v = x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / n as f64;
            // Four deviations of the mean; the variance has heavier tails.
            assert!((m - mean).abs() < 4.0 * (variance / n as f64).sqrt(), "mean {m}");
            assert!((v / variance - 1.0).abs() < 0.03, "variance {v}");
        }
        assert!(got[0].floats().iter().all(|u| (0.0..1.0).contains(u)));
    }
}

#[test]
fn dropout_keeps_its_mask_in_the_backward_pass_also_when_recomputed() {
    let x = Tensor::f32([4001], vec![1.0; 4001]).unwrap();
    for recompute in [false, true] {
        let graph = Graph::new();
        let input = graph.input("x", TensorType::f32([4001]));
        let build = || (input * 1.0).dropout(0.25, 3, Mode::Train).exp();
        let y = if recompute { graph.recompute(build) } else { build() };
        let grad = graph.grad(y.sum_all(), &[input])[0].dense().unwrap();
        for device in all_devices() {
            let got = run(&device, &graph, &[("y", y), ("g", grad)], &Feed::new().input("x", &x));
            let kept = got[0].floats().iter().filter(|y| **y > 1.5).count();
            assert!((2850..3150).contains(&kept), "{kept} of 4,001 kept");
            for (y, g) in got[0].floats().iter().zip(got[1].floats()) {
                let want = if *y > 1.5 { *y / 0.75 } else { 0.0 };
                assert!((g - want).abs() < 1e-4, "value {y}, gradient {g}");
            }
        }
    }
}

#[test]
fn dropout_refuses_what_is_no_probability_and_is_the_identity_in_evaluation() {
    for p in [-0.1, 1.0, f64::NAN] {
        let graph = Graph::new();
        graph.input("x", TensorType::f32([3])).dropout(p, 0, Mode::Eval);
        assert!(matches!(graph.error(), Some(Error::Argument { .. })), "{p}");
    }
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([3]));
    let nodes = graph.len();
    x.dropout(0.0, 0, Mode::Train).dropout(0.5, 0, Mode::Eval);
    assert_eq!(graph.len(), nodes);
    graph.input("i", TensorType::u32([3])).dropout(0.5, 0, Mode::Train);
    assert!(matches!(graph.error(), Some(Error::Dtype { .. })));
}

/// A row's sum depends on its own hits alone, in their order: the same bits on every executor in single precision.
#[test]
fn scatter_sums_are_the_same_bits_everywhere() {
    let (n, width, rows) = (3000, 3, 40);
    let graph = Graph::new();
    let values = graph.uniform([n, width], 1) - 0.5;
    let even = graph.random_bits([n], 2).rem(50);
    // Most hits on one row: long runs in pieces.
    let skewed = even.lt(40).select(graph.full_u32([], 7), even);
    let outputs = [("even", values.scatter_add(even, rows)), ("skewed", values.scatter_add(skewed, rows))];
    let want = run(&Device::cpu(), &graph, &outputs, &Feed::new().step(1, 1));
    if let Some(gpu) = common::gpu() {
        assert_eq!(run(gpu, &graph, &outputs, &Feed::new().step(1, 1)), want);
    }
}

#[test]
fn gather_and_scatter_refuse_wrong_inputs() {
    let bad: [fn(&Graph); 5] = [
        |g| {
            g.full([2, 3, 4], 0.0).gather(g.full_u32([2], 0));
        },
        |g| {
            g.full([2, 3], 0.0).gather(g.full([2], 0.0));
        },
        |g| {
            g.full([2, 3], 0.0).scatter_add(g.full_u32([3], 0), 4);
        },
        |g| {
            g.full([2, 3], 0.0).scatter_add(g.full([2], 0.0), 4);
        },
        |g| {
            g.full_u32([2, 2], 0).sort_pairs(None);
        },
    ];
    for build in bad {
        let graph = Graph::new();
        build(&graph);
        assert!(matches!(graph.error(), Some(Error::Shape { .. } | Error::Dtype { .. })));
    }
}
