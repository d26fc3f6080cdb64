//! Tokens drawn on the device follow the distribution that the filters and the temperature leave.

use crate::common;
use wgrad::ops::select::Sampling;
use wgrad::{Device, Feed, Graph, Tensor, TensorType};

const ROWS: usize = 20_000;

/// Probabilities, in double precision: `top_k`, then the nucleus among what it leaves, then the temperature.
fn expected(logits: &[f32], sampling: &Sampling) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    order.truncate(sampling.top_k.unwrap_or(usize::MAX));
    let softmax = |order: &[usize], temperature: f64| -> Vec<f64> {
        let top = f64::from(logits[order[0]]);
        let w: Vec<f64> = order.iter().map(|i| ((f64::from(logits[*i]) - top) / temperature).exp()).collect();
        let total: f64 = w.iter().sum();
        w.iter().map(|w| w / total).collect()
    };
    let mut before = 0.0;
    let nucleus = softmax(&order, 1.0).into_iter().take_while(|p| {
        let inside = sampling.top_p.is_none_or(|top_p| before <= f64::from(top_p));
        before += p;
        inside
    });
    let nucleus = nucleus.count();
    order.truncate(nucleus.max(1));
    let mut p = vec![0.0; logits.len()];
    if sampling.temperature == 0.0 {
        p[order[0]] = 1.0;
        return p;
    }
    for (i, q) in order.iter().zip(softmax(&order, f64::from(sampling.temperature))) {
        p[*i] = q;
    }
    p
}

fn shares(device: &Device, logits: &[f32], sampling: &Sampling) -> Vec<f64> {
    let graph = Graph::new();
    let x = graph.input("x", TensorType::f32([logits.len()])).expand([ROWS, logits.len()]);
    let plan = device.compile_blocking(&graph, &[("token", x.sample(sampling, 5))]).unwrap();
    plan.run(&Feed::new().step(9, 77).input("x", &Tensor::f32([logits.len()], logits.to_vec()).unwrap())).unwrap();
    let mut shares = vec![0.0; logits.len()];
    for token in plan.read_blocking("token").unwrap().ints() {
        shares[*token as usize] += 1.0 / ROWS as f64;
    }
    shares
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [0.3, -1.0, 2.0, 0.9, f32::MIN, 1.4, -0.2, 0.31, -3.0, 1.39, 0.0];
    let all = [
        Sampling::default(),
        Sampling::greedy(),
        Sampling { temperature: 0.5, ..Default::default() },
        Sampling { temperature: 2.0, top_k: Some(4), top_p: None },
        Sampling { temperature: 1.0, top_k: None, top_p: Some(0.75) },
        Sampling { temperature: 0.8, top_k: Some(6), top_p: Some(0.6) },
        Sampling { temperature: 1.0, top_k: Some(100), top_p: Some(1.0) },
        Sampling { temperature: 1e-42, ..Default::default() },
    ];
    for device in common::devices() {
        for sampling in &all {
            let got = shares(&device, &logits, sampling);
            for (i, (got, want)) in got.iter().zip(expected(&logits, sampling)).enumerate() {
                let deviation = (want * (1.0 - want) / ROWS as f64).sqrt();
                assert!(
                    (got - want).abs() <= 5.0 * deviation + 1e-9,
                    "{sampling:?} token {i}: {got}, not {want}, {device}"
                );
            }
        }
    }
}

#[test]
fn values_without_a_meaning_are_refused() {
    let bad = [
        (Sampling { temperature: -1.0, ..Default::default() }, "temperature"),
        (Sampling { temperature: f32::INFINITY, ..Default::default() }, "temperature"),
        (Sampling { top_k: Some(0), ..Default::default() }, "top_k"),
        (Sampling { top_p: Some(1.5), ..Default::default() }, "top_p"),
        (Sampling { top_p: Some(f32::NAN), ..Default::default() }, "top_p"),
    ];
    for (sampling, says) in bad {
        let graph = Graph::new();
        graph.full([2, 3], 0.0).sample(&sampling, 0);
        let error = graph.error().expect("refused").to_string();
        assert!(error.contains(says), "{error}");
    }
    let graph = Graph::new();
    graph.full_u32([2, 3], 0).sample(&Sampling::default(), 0);
    assert!(graph.error().expect("refused").to_string().contains("logits"));
}
