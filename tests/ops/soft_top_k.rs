//! Soft top-k: what holds for all scores, rows that are hard, and how much gradient a router gets.

use crate::common;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::graph::Gradient;
use wgrad::ops::route::soft_top_k::{DifferentiableTopK, SoftTopK, Start};
use wgrad::{Device, Error, Feed, Graph, Tensor, TensorType};

/// Result and, for cotangent `g`, the gradient of the scores.
struct Solved {
    y: Vec<f32>,
    ds: Vec<f32>,
}

/// Solves `[rows, n]`.
fn solve(device: &Device, n: usize, s: &[f32], k: f64, how: &SoftTopK, mask: Option<&[u32]>, g: &[f32]) -> Solved {
    let shape = [s.len() / n, n];
    let graph = Graph::new();
    let x = graph.input("s", TensorType::f32(shape));
    let m = mask.map(|_| graph.input("mask", TensorType::u32(shape)));
    let y = x.soft_top_k(k, how, m);
    let seed = graph.input("g", TensorType::f32(shape));
    let ds = match &graph.vjp(&[(y, seed)], &[x])[0] {
        Gradient::Dense(d) => *d,
        _ => panic!("no gradient"),
    };
    let plan = device.compile_blocking(&graph, &[("y", y), ("ds", ds)]).unwrap();
    let (s, g) = (Tensor::f32(shape, s.to_vec()).unwrap(), Tensor::f32(shape, g.to_vec()).unwrap());
    let mask = mask.map(|m| Tensor::u32(shape, m.to_vec()).unwrap());
    let mut feed = Feed::new().input("s", &s).input("g", &g);
    if let Some(mask) = &mask {
        feed = feed.input("mask", mask);
    }
    plan.run(&feed).unwrap();
    let read = |name| plan.read_blocking(name).unwrap().floats().to_vec();
    Solved { y: read("y"), ds: read("ds") }
}

/// Numbers of deviation 1 by the sum of twelve.
fn normal(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..n).map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0).collect()
}

fn total(y: &[f32]) -> f64 {
    y.iter().map(|y| f64::from(*y)).sum()
}

fn ways() -> Vec<SoftTopK> {
    vec![
        SoftTopK::exact(0.3),
        SoftTopK::exact(1.0),
        SoftTopK::iterations(20, 0.1),
        SoftTopK::iterations(7, 0.5).starting(Start::Relu),
        SoftTopK::reference(),
    ]
}

#[test]
fn exact_rows_add_up() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for device in common::devices() {
        for n in [1, 2, 7, 64, 130, 1000, 5003, 8200] {
            let spreads: &[f32] = if n > 8000 { &[0.0, 22.6] } else { &[0.0, 0.1, 1.0, 22.6, 1000.0] };
            for spread in spreads {
                let rows = 5;
                let s: Vec<f32> = normal(rows * n, &mut rng).iter().map(|x| x * spread + 3.0).collect();
                let mask: Vec<u32> = (0..s.len()).map(|_| u32::from(rng.random::<f32>() < 0.7)).collect();
                for k in [0.25, 1.0, 1.5, n as f64 / 3.0, n as f64 - 0.5, n as f64, n as f64 + 3.0] {
                    for mask in [None, Some(&mask[..])] {
                        let got = solve(&device, n, &s, k, &SoftTopK::exact(0.5), mask, &vec![1.0; s.len()]);
                        for r in 0..rows {
                            let row = r * n..(r + 1) * n;
                            let valid = mask.map_or(n, |m| m[row.clone()].iter().sum::<u32>() as usize);
                            let y = &got.y[row.clone()];
                            assert!(y.iter().all(|y| (0.0..=1.0).contains(y)));
                            let want = k.min(valid as f64);
                            let error = (total(y) - want).abs();
                            assert!(error <= 1e-5 * want.max(1.0), "{device}: n {n}, k {k}, spread {spread}: {error}");
                            // A sum that stands still has no gradient.
                            let ds = &got.ds[row];
                            assert!(ds.iter().all(|d| d.abs() < 1e-4), "{device}: n {n}, k {k}, spread {spread}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn order_and_shift_do_not_matter() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let n = 333;
    // Multiples of 1/64, which a shift by 1,024 leaves exact.
    let s: Vec<f32> = normal(n, &mut rng).iter().map(|x| (x * 64.0).round() / 64.0).collect();
    let g = normal(n, &mut rng);
    // 100 has no divisor in common with 333.
    let shuffled = |x: &[f32]| (0..n).map(|i| x[(100 * i + 7) % n]).collect::<Vec<f32>>();
    for device in common::devices() {
        for how in ways() {
            let a = solve(&device, n, &s, 20.0, &how, None, &g);
            let b = solve(&device, n, &shuffled(&s), 20.0, &how, None, &shuffled(&g));
            for (x, y) in [(&a.y, &b.y), (&a.ds, &b.ds)] {
                let top = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                for (x, y) in shuffled(x).iter().zip(y) {
                    assert!((x - y).abs() <= 2e-4 * top, "{device} {how:?}: {x} {y}");
                }
            }
            if let SoftTopK::Exact { .. } = how {
                let moved: Vec<f32> = s.iter().map(|s| s + 1024.0).collect();
                let b = solve(&device, n, &moved, 20.0, &how, None, &g);
                assert_eq!(a.y, b.y, "{device}");
                assert_eq!(a.ds, b.ds, "{device}");
            }
        }
    }
}

/// Rows that could overflow, divide by zero or not end. Every value stays in [0, 1], every gradient finite, and rows do
/// not disturb each other: each gives the same bits beside others in other places.
#[test]
fn hard_rows() {
    hard(70, &[0.0, 1e-6, 1.0, 7.0, 10.5, 69.0, 70.0, 100.0]);
}

#[test]
fn hard_long_rows() {
    hard(8_190, &[1.0, 1e3 + 0.5, 8_189.0]);
    hard(8_200, &[1.0, 1e3 + 0.5, 8_199.0]);
}

fn hard(n: usize, counts: &[f64]) {
    let big = f32::MAX;
    let one = |at: usize, value: f32, rest: f32| (0..n).map(|i| if i == at { value } else { rest }).collect::<Vec<_>>();
    let mut rows: Vec<Vec<f32>> = vec![
        vec![0.0; n],
        vec![-17.25; n],
        vec![3e38; n],
        vec![-3e38; n],
        vec![f32::MIN; n],
        vec![big; n],
        one(3, 0.5, f32::MIN),
        one(3, big, f32::MIN),
        one(3, big, -big),
        one(3, 1e-40, -1e-40),
        one(3, f32::INFINITY, 0.0),
        one(3, f32::NEG_INFINITY, 0.0),
        vec![1e-40; n],
        (0..n).map(|i| 1e-42 * i as f32).collect(),
        (0..n).map(|i| if i % 2 == 0 { 3e38 } else { -3e38 }).collect(),
        (0..n).map(|i| 100.0 * i as f32).collect(),
        (0..n).map(|i| (i / 7) as f32).collect(),
        (0..n).map(|i| -0.0 * i as f32).collect(),
    ];
    rows.push((0..n).map(|i| 1.5f32.powi(i as i32 % 70)).collect());
    let all: Vec<f32> = rows.concat();
    let turned = |x: &[f32]| x.chunks(n).rev().flatten().copied().collect::<Vec<f32>>();
    let g: Vec<f32> = (0..all.len()).map(|i| ((i * 7919) % 13) as f32 - 6.0).collect();
    for device in common::devices() {
        for how in ways() {
            for k in counts.iter().copied() {
                let got = solve(&device, n, &all, k, &how, None, &g);
                let again = solve(&device, n, &turned(&all), k, &how, None, &turned(&g));
                assert_eq!(got.y, turned(&again.y), "{device} {how:?} k {k}");
                assert_eq!(got.ds, turned(&again.ds), "{device} {how:?} k {k}");
                for (r, row) in rows.iter().enumerate() {
                    let y = &got.y[r * n..(r + 1) * n];
                    let ds = &got.ds[r * n..(r + 1) * n];
                    assert!(y.iter().all(|y| (0.0..=1.0 + 1e-6).contains(y)), "{device} {how:?} k {k} {row:?}: {y:?}");
                    assert!(ds.iter().all(|d| d.is_finite()), "{device} {how:?} k {k} {row:?}: {ds:?}");
                    if let SoftTopK::Exact { .. } = how {
                        let error = (total(y) - k.min(n as f64)).abs();
                        assert!(error <= 2e-5 * k.max(1.0), "{device} {how:?} k {k} row {r}: sum {}", total(y));
                    }
                }
            }
        }
    }
}

/// A NaN is NaN in its place and changes nothing else in the values, nor anything in other rows.
#[test]
fn nan_stays_where_it_is() {
    for (rows, n) in [(9, 40), (4, 60), (4, 8_300)] {
        nan(rows, n);
    }
}

fn nan(rows: usize, n: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let s = normal(rows * n, &mut rng);
    let g = normal(rows * n, &mut rng);
    let mut bad = s.clone();
    bad[5] = f32::NAN;
    bad[2 * n..3 * n].fill(f32::NAN);
    // What the rest of the first row must be: the NaN masked.
    let mut mask = vec![1; rows * n];
    mask[5] = 0;
    for device in common::devices() {
        for how in ways() {
            let got = solve(&device, n, &bad, 6.0, &how, None, &g);
            let want = solve(&device, n, &s, 6.0, &how, Some(&mask), &g);
            for i in (0..n).chain(3 * n..rows * n) {
                if i == 5 {
                    assert!(got.y[i].is_nan(), "{device} {how:?}");
                } else {
                    assert_eq!(got.y[i], want.y[i], "{device} {how:?}: {i}");
                }
            }
            assert!(got.y[2 * n..3 * n].iter().all(|y| y.is_nan()), "{device} {how:?}");
            assert_eq!(got.ds[3 * n..], want.ds[3 * n..], "{device} {how:?}");
        }
    }
}

#[test]
fn masked_rows_are_zero() {
    let n = 12;
    let s: Vec<f32> = (0..2 * n).map(|i| i as f32).collect();
    let mask: Vec<u32> = (0..2 * n).map(|i| u32::from(i >= n && i % 2 == 0)).collect();
    for device in common::devices() {
        for how in ways() {
            let got = solve(&device, n, &s, 3.0, &how, Some(&mask), &vec![1.5; 2 * n]);
            for (i, m) in mask.iter().enumerate() {
                assert!(*m == 1 || (got.y[i] == 0.0 && got.ds[i] == 0.0), "{device} {how:?}: {i}");
            }
        }
    }
}

/// Counts of rows that leave nothing to choose, or are no counts.
#[test]
fn any_count() {
    let n = 6;
    let counts = [0.0, -1.0, f32::NAN, 6.0, 100.0, 1e-30, 3e38, 2.0];
    let rows = counts.len();
    for device in common::devices() {
        for how in ways() {
            let graph = Graph::new();
            let s = graph.input("s", TensorType::f32([rows, n]));
            let k = graph.input("k", TensorType::f32([rows]));
            let y = s.soft_top_k(k, &how, None);
            let grads = graph.vjp(&[(y, y)], &[s, k]);
            let (ds, dk) = (grads[0].dense().unwrap(), grads[1].dense().unwrap());
            let plan = device.compile_blocking(&graph, &[("y", y), ("ds", ds), ("dk", dk)]).unwrap();
            let values = Tensor::f32([rows, n], (0..rows * n).map(|i| ((i * 5) % 7) as f32 * 0.2).collect()).unwrap();
            plan.run(&Feed::new().input("s", &values).input("k", &Tensor::f32([rows], counts.to_vec()).unwrap()))
                .unwrap();
            let read = |name| plan.read_blocking(name).unwrap().floats().to_vec();
            let (y, ds, dk) = (read("y"), read("ds"), read("dk"));
            assert!(y.iter().chain(&ds).chain(&dk).all(|v| v.is_finite()), "{device} {how:?}: {y:?} {ds:?} {dk:?}");
            assert!(y[..3 * n].iter().chain(&ds[..3 * n]).chain(&dk[..3]).all(|v| *v == 0.0), "{device} {how:?}");
            if let SoftTopK::Exact { .. } = how {
                assert!(y[3 * n..5 * n].iter().all(|y| *y == 1.0), "{device}");
                assert!(ds[3 * n..5 * n].iter().chain(&dk[3..5]).all(|d| *d == 0.0), "{device}");
            }
        }
    }
}

/// An infinite count is as good as the largest number, masked entries get no gradient from it.
#[test]
fn an_infinite_count_is_a_large_one() {
    let n = 7;
    let s: Vec<f32> = (0..n).map(|i| ((i * 5) % 7) as f32 * 0.3 - 0.8).collect();
    let mask: Vec<u32> = (0..n).map(|i| u32::from(i < 5)).collect();
    for device in common::devices() {
        for how in ways() {
            let [large, infinite] =
                [f64::from(f32::MAX), f64::INFINITY].map(|k| solve(&device, n, &s, k, &how, Some(&mask), &s));
            assert_eq!(large.y, infinite.y, "{device} {how:?}");
            assert_eq!(large.ds, infinite.ds, "{device} {how:?}");
            assert_eq!(infinite.ds[5..], [0.0; 2], "{device} {how:?}");
            let graph = Graph::new();
            let x = graph.input("s", TensorType::f32([1, n]));
            let (k, m) = (graph.input("k", TensorType::f32([1])), graph.input("m", TensorType::u32([1, n])));
            let y = x.soft_top_k(k, &how, Some(m));
            let ds = graph.vjp(&[(y, x)], &[x])[0].dense().unwrap();
            let plan = device.compile_blocking(&graph, &[("ds", ds)]).unwrap();
            let tensors = [Tensor::f32([1, n], s.clone()), Tensor::f32([1], vec![f32::INFINITY])].map(|t| t.unwrap());
            let masked = Tensor::u32([1, n], mask.clone()).unwrap();
            plan.run(&Feed::new().input("s", &tensors[0]).input("k", &tensors[1]).input("m", &masked)).unwrap();
            assert_eq!(plan.read_blocking("ds").unwrap().floats(), infinite.ds, "{device} {how:?}");
        }
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let refused = |k: f64, how: SoftTopK, mask: Option<[usize; 2]>| {
        let graph = Graph::new();
        let s = graph.input("s", TensorType::f32([2, 5]));
        let mask = mask.map(|m| graph.input("mask", TensorType::u32(m)));
        s.soft_top_k(k, &how, mask);
        graph.error()
    };
    for eps in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60] {
        for how in [SoftTopK::exact(eps), SoftTopK::iterations(3, eps)] {
            assert!(matches!(refused(1.0, how, None), Some(Error::Argument { .. })), "{eps}");
        }
    }
    for n in [0, (1 << 20) + 1, usize::MAX] {
        assert!(matches!(refused(1.0, SoftTopK::iterations(n, 1.0), None), Some(Error::Argument { .. })), "{n}");
    }
    assert!(refused(1.0, SoftTopK::iterations(3, 1.0).scaled(f64::NAN, 0.5), None).is_some());
    assert!(refused(1.0, SoftTopK::iterations(3, 1.0).scaled(2.0, -0.5), None).is_some());
    assert!(refused(1.0, SoftTopK::exact(1.0), Some([2, 4])).is_some());
    assert!(refused(1.0, SoftTopK::exact(1.0), Some([1, 5])).is_none());
    let graph = Graph::new();
    let s = graph.input("s", TensorType::f32([2, 5]));
    let k = graph.input("k", TensorType::f32([5]));
    s.soft_top_k(k, &SoftTopK::exact(1.0), None);
    assert!(graph.error().is_some_and(|e| e.to_string().contains("one for each row")));
    for (k, ratio) in [(0, 1.0), (6, 1.0), (2, 0.9), (2, f64::NAN), (2, f64::INFINITY)] {
        let graph = Graph::new();
        let options = DifferentiableTopK { ratio, ..DifferentiableTopK::learnable() };
        graph.input("s", TensorType::f32([2, 5])).differentiable_top_k(k, &options, None);
        assert!(matches!(graph.error(), Some(Error::Argument { .. } | Error::Shape { .. })), "k {k}, ratio {ratio}");
    }
}

/// Share of the selected entries that receive gradient, and what a router is told: figures for one row of scores.
struct Study {
    /// Share of selected entries with |ds| above 1e-6.
    alive: f64,
    /// Mean |ds| over them, for cotangents of deviation 1 on the selected entries.
    mean: f64,
    /// Entries that are exactly 1.
    ones: usize,
    sum: f64,
}

fn study(s: &[f32], k: usize, ratio: f64, how: &SoftTopK) -> Study {
    let mut order: Vec<usize> = (0..s.len()).collect();
    order.sort_by(|a, b| s[*b].total_cmp(&s[*a]));
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut g = vec![0.0; s.len()];
    for (i, v) in order[..k].iter().zip(normal(k, &mut rng)) {
        g[*i] = v;
    }
    let got = solve(&Device::cpu(), s.len(), s, k as f64 * ratio, how, None, &g);
    let sizes: Vec<f64> = order[..k].iter().map(|i| f64::from(got.ds[*i].abs())).collect();
    Study {
        alive: sizes.iter().filter(|d| **d > 1e-6).count() as f64 / k as f64,
        mean: sizes.iter().sum::<f64>() / k as f64,
        ones: got.y.iter().filter(|y| **y == 1.0).count(),
        sum: total(&got.y),
    }
}

/// Cosines of `n` random tokens and a direction of width `dim`, times its root: deviation 1.
fn cosines(n: usize, dim: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let rest = (dim - 1) as f32;
    let along = normal(n, rng);
    // The squared length of the other components is nearly normal.
    let across = normal(n, rng).into_iter().map(|z| rest + (2.0 * rest).sqrt() * z);
    along.iter().zip(across).map(|(z, r)| (dim as f32).sqrt() * z / (z * z + r).sqrt()).collect()
}

/// A router can only learn if the tokens it selects have a gradient: figures for 1,024 of 32,768 tokens of width 512.
/// `cargo test --test ops soft_top_k::selected -- --nocapture` prints them.
#[test]
fn selected_tokens_carry_a_gradient() {
    let (n, k, dim) = (32_768, 1_024, 512);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let unit = cosines(n, dim, &mut rng);
    let raw: Vec<f32> = normal(n, &mut rng).iter().map(|x| x * (dim as f32).sqrt()).collect();
    let times = |f: f32| unit.iter().map(|x| x * f).collect::<Vec<f32>>();
    let measure = |name: &str, s: &[f32], ratio: f64, how: &SoftTopK| {
        let f = study(s, k, ratio, how);
        let alive = 100.0 * f.alive;
        println!("{name:<36} {alive:>6.2} % alive, mean {:.1e}; {:>4} ones, sum {:.1}", f.mean, f.ones, f.sum);
        f
    };
    // As published: thousands of exact ones, no gradient at all.
    let literal = measure("raw products, reference", &raw, 1.125, &SoftTopK::reference());
    assert!(literal.alive == 0.0 && literal.ones > 3_000, "{} ones", literal.ones);
    measure("raw products, 50 iterations, eps 1", &raw, 1.125, &SoftTopK::iterations(50, 1.0));
    measure("cosines times 8, reference", &times(8.0 / (dim as f32).sqrt()), 1.125, &SoftTopK::reference());
    for eps in [0.03, 0.1, 0.25, 0.5] {
        for ratio in [1.0, 1.125] {
            measure(&format!("unit cosines, exact {eps}, ratio {ratio}"), &unit, ratio, &SoftTopK::exact(eps));
        }
    }
    measure("unit cosines, learnable, ratio 1.125", &unit, 1.125, &SoftTopK::learnable());
    let learnable = measure("unit cosines, learnable, ratio 1", &unit, 1.0, &SoftTopK::learnable());
    assert!(learnable.alive > 0.99 && learnable.mean > 0.1);
    assert!((learnable.sum - k as f64).abs() < 0.01);
    // Scores that training has widened.
    let wide = measure("four times as wide", &times(4.0), 1.0, &SoftTopK::learnable());
    assert!(wide.alive > 0.5);
    // A confident router saturates at any ratio: exactly k tokens far above the others leave nothing to choose.
    let confident: Vec<f32> = unit.iter().enumerate().map(|(i, s)| s + if i % 32 == 0 { 20.0 } else { 0.0 }).collect();
    let one = measure("k far above, ratio 1", &confident, 1.0, &SoftTopK::learnable());
    let more = measure("k far above, ratio 1.125", &confident, 1.125, &SoftTopK::learnable());
    assert!(one.alive >= more.alive);
}
