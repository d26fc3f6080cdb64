//! Samples for the generic checks.

use super::{DifferentiableTopK, SoftTopK, Start};
use crate::ops::samples::Sample;

/// Scores `[.., n]`, with a mask if `masked`.
fn sample(name: &str, shape: &'static [usize], k: f64, how: SoftTopK, masked: bool) -> Sample {
    let sample = Sample::new(format!("soft_top_k {name} {shape:?}"), [shape], move |_, x| {
        vec![x[0].soft_top_k(k, &how, x.get(1).copied())]
    });
    if masked { sample.below(shape, 2) } else { sample }
}

/// Scores `[.., n]` and counts `[..]`.
fn counted(name: &str, shape: &'static [usize], how: SoftTopK) -> Sample {
    let rows = &shape[..shape.len() - 1];
    let name = format!("soft_top_k counts {name} {shape:?}");
    Sample::new(name, [shape, rows], move |_, x| vec![x[0].soft_top_k(x[1] * 2.0, &how, None)]).positive(1)
}

/// Second derivative: the gradient of a squared sum as a sample's output.
fn second(name: &str, how: SoftTopK) -> Sample {
    let name = format!("second derivative of soft_top_k {name}");
    Sample::new(name, [&[3, 7], &[3]], move |g, x| {
        let loss = x[0].soft_top_k(x[1], &how, None).square().sum_all();
        g.grad(loss, &[x[0], x[1]]).iter().filter_map(|v| v.dense()).collect()
    })
    .positive(1)
}

/// All outputs of a differentiable top-k.
fn selected(shape: &'static [usize], k: usize, how: SoftTopK, masked: bool) -> Sample {
    let options = DifferentiableTopK { how, ..DifferentiableTopK::default() };
    let sample = Sample::new(format!("differentiable_top_k {shape:?} {k}"), [shape], move |_, x| {
        let top = x[0].differentiable_top_k(k, &options, x.get(1).copied());
        vec![top.soft, top.indices]
    });
    if masked { sample.below(shape, 2) } else { sample }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<Sample> {
    let plain = || SoftTopK::iterations(8, 0.5);
    let scaled = || SoftTopK::iterations(6, 0.3).scaled(2.0, 0.7);
    let old = || SoftTopK::iterations(5, 0.5).starting(Start::Relu);
    let exact = || SoftTopK::exact(0.4);
    vec![
        sample("plain", &[3, 7], 2.5, plain(), false),
        sample("plain", &[5], 2.0, plain(), false),
        sample("plain", &[1, 1], 1.0, plain(), false).no_gradient(),
        sample("plain", &[0, 4], 1.0, plain(), false),
        sample("plain", &[3, 0], 1.0, plain(), false),
        sample("plain", &[2, 3, 130], 20.0, plain(), false),
        sample("plain", &[66_000, 3], 1.5, SoftTopK::iterations(2, 0.5), false).no_gradient(),
        sample("plain", &[2, 3_001], 300.0, plain(), false).tolerance(1e-4),
        sample("scaled", &[3, 17], 3.0, scaled(), false),
        sample("scaled masked", &[4, 19], 3.5, scaled(), true),
        sample("masked", &[9, 5], 2.0, plain(), true),
        sample("one iteration", &[3, 7], 2.0, SoftTopK::iterations(1, 0.5), false),
        sample("old start", &[3, 17], 3.0, old(), false),
        sample("old start masked", &[4, 19], 3.5, old(), true),
        sample("none", &[3, 5], 0.0, plain(), false),
        counted("plain", &[3, 9], plain()),
        counted("scaled", &[2, 2, 9], scaled()),
        counted("old start", &[4, 70], old()),
        counted("plain", &[6], plain()),
        sample("exact", &[3, 7], 2.5, exact(), false),
        sample("exact", &[5], 2.0, exact(), false),
        sample("exact", &[1, 1], 0.5, exact(), false),
        sample("exact", &[0, 4], 1.0, exact(), false),
        sample("exact", &[3, 0], 1.0, exact(), false),
        sample("exact", &[2, 3, 130], 20.0, exact(), false),
        sample("exact", &[66_000, 3], 1.5, exact(), false).no_gradient(),
        sample("exact", &[2, 3_001], 300.0, exact(), false).tolerance(1e-4),
        sample("exact", &[70, 33], 4.0, exact(), false),
        sample("exact masked", &[9, 5], 2.0, exact(), true),
        sample("exact masked", &[4, 100], 20.5, exact(), true),
        sample("exact all", &[3, 5], 5.0, exact(), false),
        sample("exact none", &[3, 5], -1.0, exact(), false),
        sample("long", &[2, 8_192], 500.5, plain(), false).tolerance(2e-4),
        sample("long masked", &[1, 20_011], 700.0, scaled(), true).tolerance(2e-4),
        sample("long, one iteration", &[8_200], 700.0, SoftTopK::iterations(1, 0.5), false).tolerance(2e-4),
        sample("long, old start", &[3, 9_001], 700.0, old(), true).tolerance(2e-4),
        counted("long", &[2, 8_192], plain()).tolerance(2e-4),
        sample("long exact", &[2, 8_192], 500.5, exact(), false).tolerance(2e-4),
        sample("long exact masked", &[1, 20_011], 700.0, exact(), true).tolerance(2e-4),
        sample("long exact all", &[1, 8_192], 8_192.0, exact(), false).tolerance(2e-4),
        counted("long exact", &[2, 8_192], exact()).tolerance(2e-4),
        counted("exact", &[3, 9], exact()),
        counted("exact", &[2, 2, 70], exact()),
        counted("exact", &[6], exact()),
        selected(&[3, 9], 3, plain(), false),
        selected(&[2, 3, 20], 5, exact(), true),
        selected(&[4, 6], 6, exact(), false),
        second("plain", plain()),
        second("old start", old()),
        second("exact", exact()),
    ]
}
