//! The coordinate descent against its formula, written down term by term in double precision: many iterations, few of which
//! have an epsilon of their own, while the level rises, falls, or does one after the other.

use crate::common;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::graph::Gradient;
use wgrad::ops::route::soft_top_k::{SoftTopK, Start};
use wgrad::{Device, Feed, Graph, Tensor, TensorType};

const ITERATIONS: usize = 50;

/// A schedule by its first and last epsilon, the factor between them, and the start.
#[derive(Clone, Copy, Debug)]
struct Case {
    first: f64,
    last: f64,
    decay: f64,
    start: Start,
}

/// Result, gradient of the scores for cotangent `g`, and how near a score lies to where an iteration clips.
fn literal(s: &[f64], k: f64, case: Case, g: &[f64]) -> (Vec<f64>, Vec<f64>, f64) {
    let epsilon = |t: usize| f64::from((case.first * case.decay.powi(t as i32)).max(case.last) as f32);
    let mut levels = Vec::new();
    let mut a = vec![0.0];
    let mut softmaxes: Vec<Vec<f64>> = Vec::new();
    for t in 0..ITERATIONS {
        let e = epsilon(t);
        let level = -a[t];
        let exponent = |s: f64| if t == 0 && case.start == Start::Scores { 0.0 } else { s.min(level) / e };
        let top = s.iter().map(|s| exponent(*s)).fold(f64::MIN, f64::max);
        let sum: f64 = s.iter().map(|s| (exponent(*s) - top).exp()).sum();
        softmaxes.push(s.iter().map(|s| (exponent(*s) - top).exp() / sum).collect());
        levels.push(if t == 0 && case.start == Start::Scores { f64::MIN } else { level });
        a.push(e * (k.ln() - sum.ln() - top));
    }
    let (end, e) = (-a[ITERATIONS], epsilon(ITERATIONS));
    let y: Vec<f64> = s.iter().map(|s| ((s.min(end) - end) / e).exp()).collect();
    let mut ds: Vec<f64> = (0..s.len()).map(|j| if s[j] <= end { g[j] * y[j] / e } else { 0.0 }).collect();
    let mut carried: f64 = ds.iter().sum();
    for t in (0..ITERATIONS).rev() {
        let free = |j: usize| s[j] <= levels[t];
        let clipped: f64 = (0..s.len()).filter(|j| !free(*j)).map(|j| softmaxes[t][j]).sum();
        (0..s.len()).filter(|j| free(*j)).for_each(|j| ds[j] -= carried * softmaxes[t][j]);
        carried *= if levels[t] == f64::MIN { 0.0 } else { clipped };
    }
    levels.push(end);
    let gap = |l: &f64| s.iter().map(|s| (s - l).abs()).fold(f64::MAX, f64::min);
    let margin = levels.iter().map(gap).fold(f64::MAX, f64::min);
    (y, ds, margin)
}

/// The same by the library.
fn solve(device: &Device, s: &[f32], k: f64, case: Case, g: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let graph = Graph::new();
    let [x, seed] = ["s", "g"].map(|name| graph.input(name, TensorType::f32([s.len()])));
    let how = SoftTopK::iterations(ITERATIONS, case.last).scaled(case.first, case.decay).starting(case.start);
    let y = x.soft_top_k(k, &how, None);
    let Gradient::Dense(ds) = &graph.vjp(&[(y, seed)], &[x])[0] else { panic!("no gradient") };
    let plan = device.compile_blocking(&graph, &[("y", y), ("ds", *ds)]).unwrap();
    let [s, g] = [s, g].map(|x| Tensor::f32([x.len()], x.to_vec()).unwrap());
    plan.run(&Feed::new().input("s", &s).input("g", &g)).unwrap();
    let read = |name| plan.read_blocking(name).unwrap().floats().to_vec();
    (read("y"), read("ds"))
}

#[test]
fn iterates_and_gradients_are_those_of_the_formula() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let case = |first, last, decay, start| Case { first, last, decay, start };
    let cases = [
        case(0.5, 0.5, 1.0, Start::Scores),
        case(0.5, 0.5, 1.0, Start::Relu),
        case(4.0, 0.25, 0.7, Start::Scores),
        case(4.0, 0.25, 0.7, Start::Relu),
        case(4.0, 0.01, 0.97, Start::Scores),
    ];
    let devices = common::devices();
    let (mut tried, mut moved) = (0, [false; 2]);
    for case in cases {
        for n in [37, 300] {
            for (mean, k) in [(0.0, 5.0), (12.0, 5.0), (-12.0, 30.0), (1.0, 36.5), (40.0, 2.0)] {
                let s: Vec<f32> = (0..n).map(|_| mean + (0..6).map(|_| rng.random::<f32>()).sum::<f32>()).collect();
                let g: Vec<f32> = (0..n).map(|_| rng.random::<f32>() - 0.5).collect();
                let double = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
                let (y, ds, margin) = literal(&double(&s), k, case, &double(&g));
                // A score that lies where an iteration clips may count on either side.
                if margin < 2e-5 {
                    continue;
                }
                tried += 1;
                moved[usize::from(mean > 0.0)] = true;
                for device in &devices {
                    let (got, gradient) = solve(device, &s, k, case, &g);
                    let bound = |want: &[f64]| 3e-4 * want.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
                    for (what, got, want) in [("y", &got, &y), ("ds", &gradient, &ds)] {
                        for (i, (got, want)) in got.iter().zip(want).enumerate() {
                            let error = (f64::from(*got) - want).abs();
                            let place = format!("{device}, {case:?}, n {n}, mean {mean}, k {k}: {what}[{i}]");
                            assert!(error <= bound(if what == "y" { &y } else { &ds }), "{place}: {got}, not {want}");
                        }
                    }
                }
            }
        }
    }
    assert!(tried >= 15 && moved == [true; 2], "{tried} rows");
}
