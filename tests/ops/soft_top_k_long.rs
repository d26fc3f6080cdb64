//! Soft top-k of rows of 2^20 scores.

use crate::common;
use wgrad::check::sample::difference;
use wgrad::ops::route::soft_top_k::SoftTopK;
use wgrad::{Device, Feed, Graph, Tensor, TensorType};

const N: usize = 1 << 20;
const K: f64 = 9_000.5;

/// Scores of deviation about 1, with a mask of two in three.
fn run(device: &Device, how: &SoftTopK, masked: bool) -> [Tensor; 3] {
    let graph = Graph::new();
    let [s, g] = ["s", "g"].map(|name| graph.input(name, TensorType::f32([1, N])));
    let mask = masked.then(|| graph.iota([1, N], 1).rem(3).gt(0));
    let y = s.soft_top_k(K, how, mask);
    let ds = graph.vjp(&[(y, g)], &[s])[0].dense().unwrap();
    // Each number alone is small, and their sum tells what went to the counts of the row.
    let plan = device.compile_blocking(&graph, &[("y", y), ("ds", ds), ("sum", y.sum_all())]).unwrap();
    let [s, g] = [1, 2].map(|seed| common::modules::noise(&[1, N], seed));
    plan.run(&Feed::new().input("s", &s).input("g", &g)).unwrap();
    ["y", "ds", "sum"].map(|name| plan.read_blocking(name).unwrap())
}

#[test]
fn a_million_scores() {
    let scaled = SoftTopK::iterations(12, 0.2).scaled(2.0, 0.7);
    for (how, masked) in [(SoftTopK::exact(0.1), false), (SoftTopK::exact(0.1), true), (scaled, true)] {
        let want = run(&Device::cpu_f64(), &how, masked);
        for device in common::devices() {
            let got = run(&device, &how, masked);
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let d = difference(got, want);
                assert!(d < 2e-4, "output {i}, {how:?}, masked {masked} on {device}: {d:.1e}");
            }
            if let SoftTopK::Exact { .. } = how {
                let sum = f64::from(got[2].floats()[0]);
                assert!((sum - K).abs() < 1e-4 * K, "{sum} on {device}");
            }
        }
    }
}
