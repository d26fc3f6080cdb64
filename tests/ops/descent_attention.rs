//! Coordinate-descent attention against plain code: values that name their keys show the weights.

use crate::common;
use crate::common::modules::{noise, run};
use wgrad::nn::Params;
use wgrad::ops::attention::Attention;
use wgrad::ops::attention::descent::DescentAttention;
use wgrad::ops::route::soft_top_k::SoftTopK;
use wgrad::{Device, Tensor};

const N: usize = 9;
const D: usize = 4;
const EPS: f64 = 0.3;

/// Weights `[N, N]` of one head: the values are the rows of the identity.
fn weights(device: &Device, q: &Tensor, k: &Tensor, options: &DescentAttention<'static>) -> Vec<f32> {
    let one = (0..N * N).map(|i| if i / N == i % N { 1.0 } else { 0.0 }).collect();
    let v = Tensor::f32([1, 1, N, N], one).unwrap();
    let inputs = [("q", q), ("k", k), ("v", &v)];
    run(device, &Params::new(0), &inputs, |_, x| vec![x[0].descent_attention(x[1], x[2], options)])[0].floats().to_vec()
}

/// Scores of query `i` for the keys up to itself.
fn scores(q: &Tensor, k: &Tensor, i: usize) -> Vec<f64> {
    let row = |t: &Tensor, i: usize| t.floats()[i * D..(i + 1) * D].to_vec();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (0..=i).map(|j| dot(&row(q, i), &row(k, j)) / (D as f64).sqrt()).collect()
}

/// `exp(min(s + a, 0) / eps)` with the `a` at which the sum is k, found by halving an interval.
fn exact(s: &[f64], k: f64) -> Vec<f64> {
    let at = |a: f64| s.iter().map(|s| ((s + a).min(0.0) / EPS).exp()).collect::<Vec<f64>>();
    let (mut low, mut high) = (-100.0, 100.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        *(if at(middle).iter().sum::<f64>() < k { &mut low } else { &mut high }) = middle;
    }
    at(high)
}

#[test]
fn weights_are_a_soft_top_k() {
    const K: f64 = 2.5;
    let (q, k) = (noise(&[1, 1, N, D], 1), noise(&[1, 1, N, D], 2));
    let attention = Attention { causal: true, ..Attention::default() };
    let options = DescentAttention { attention, k: K.into(), how: SoftTopK::exact(EPS), ..DescentAttention::default() };
    for device in common::devices() {
        for rows in [None, Some(4)] {
            let plain = weights(&device, &q, &k, &DescentAttention { rows, ..options.clone() });
            let shared = weights(&device, &q, &k, &DescentAttention { rows, normalize: true, ..options.clone() });
            for i in 0..N {
                let want = exact(&scores(&q, &k, i), K);
                let total: f64 = want.iter().sum();
                assert!((total - K.min(i as f64 + 1.0)).abs() < 1e-9);
                for j in 0..N {
                    let want = want.get(j).copied().unwrap_or(0.0);
                    let at = [&plain, &shared].map(|w| f64::from(w[i * N + j]));
                    assert!((0.0..=1.0).contains(&at[0]), "{device}: {}", at[0]);
                    let off = (at[0] - want).abs().max((at[1] - want / total).abs());
                    assert!(off < 1e-5, "query {i}, key {j}, rows {rows:?} on {device}: {at:?}, not {want}");
                }
            }
        }
    }
}
