//! Infini-attention, block recurrence, routing and product keys in one model, against a model of each alone with the same
//! number of parameters, on texts that ask for what was named near, for what was named far back, and for lasting facts.
//!
//! `cargo run --release --example claims_mixed`

mod recall;
mod support;

use recall::{Answer, Model, Needs, TOKENS, Task, of};
use support::{Line, Picture, Report, over};
use wgrad::models::mix::{AttentionKind, FeedForwardKind, LayerConfig, MemoryConfig, MemoryTransformer};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::Group;
use wgrad::{Result, Var};

/// Tokens of a segment and of a text.
const SEGMENT: usize = 16;
const LENGTH: usize = 128;

impl Model for MemoryTransformer {
    fn init(&self, seed: u64) -> Params {
        MemoryTransformer::init(self, seed)
    }

    fn groups(&self, rate: f64) -> Vec<(&'static str, Group)> {
        MemoryTransformer::groups(self, rate, rate)
    }

    fn logits<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.forward(p, ids, &self.fresh(ids.graph(), ids.dim(0))).0
    }
}

fn model(layers: &[(AttentionKind, FeedForwardKind)], ff_mult: f64) -> Result<MemoryTransformer> {
    let layer = |(attention, feed_forward): &(AttentionKind, FeedForwardKind)| LayerConfig {
        attention: attention.clone(),
        feed_forward: feed_forward.clone(),
        long_memory: None,
    };
    MemoryTransformer::new(MemoryConfig {
        num_tokens: TOKENS,
        dim: 32,
        segment: SEGMENT,
        heads: 2,
        dim_head: None,
        ff_mult,
        recompute: false,
        layers: layers.iter().map(layer).collect(),
    })
}

/// The model whose feed-forwards are so wide that it has nearest to so many parameters.
fn sized(layers: &[(AttentionKind, FeedForwardKind)], parameters: usize) -> Result<MemoryTransformer> {
    let mut best = model(layers, 1.0)?;
    for mult in (2..120).map(|i| f64::from(i) / 4.0) {
        let other = model(layers, mult)?;
        let off = |m: &MemoryTransformer| m.init(0).numel().abs_diff(parameters);
        best = if off(&other) < off(&best) { other } else { best };
    }
    Ok(best)
}

fn run(report: &mut Report) -> Result<()> {
    let steps = report.args.size(600, 2);
    let window = || AttentionKind::Full { context: SEGMENT };
    let infini = || AttentionKind::Infini { delta_rule: false, head_gate: 0.0 };
    let recurrent = || AttentionKind::Recurrent { states: None, gate: Default::default(), gates: Default::default() };
    let routed = || AttentionKind::Routed { memories: LENGTH, selected: None, heavy_queries: None, window: None };
    let dense = || FeedForwardKind::Dense;
    let keys = || FeedForwardKind::ProductKey { num_keys: 32, topk: Some(8), heads: 2 };
    let heavy = || FeedForwardKind::Routed { heavy_tokens: SEGMENT / 2, light_mult: 0.5 };
    let arms = [
        ("all four", vec![(infini(), dense()), (recurrent(), keys()), (routed(), heavy())]),
        ("Infini-attention", vec![(infini(), dense()), (infini(), dense()), (infini(), dense())]),
        ("recurrence", vec![(recurrent(), dense()), (recurrent(), dense()), (recurrent(), dense())]),
        ("routing", vec![(routed(), heavy()), (routed(), heavy()), (routed(), heavy())]),
        ("product keys", vec![(window(), dense()), (window(), keys()), (window(), dense())]),
        ("none: a window", vec![(window(), dense()), (window(), dense()), (window(), dense())]),
    ];
    let target = model(&arms[0].1, 2.0)?.init(0).numel();
    let far = |a: &Answer, range: std::ops::Range<usize>| matches!(a.needs, Needs::Thing(d) if range.contains(&d));
    let meant = |a: &Answer, i: usize| match i {
        0 => far(a, 0..SEGMENT),
        1 => far(a, SEGMENT..3 * SEGMENT),
        2 => far(a, 3 * SEGMENT..LENGTH),
        _ => a.needs == Needs::Fact,
    };
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    let models = arms.iter().map(|(_, layers)| sized(layers, target)).collect::<Result<Vec<_>>>()?;
    let task = Task { length: LENGTH, things: 8, asking: 2, lasting: true };
    let all = report.args.each(&models, |model, seed| recall::train(model, task, seed, (steps, 3e-3)))?;
    for (((name, _), model), runs) in arms.iter().zip(&models).zip(all) {
        let share = |run: &Vec<Answer>, i| 100.0 * of(run, |a| meant(a, i), |a| f64::from(u8::from(a.right)));
        let operations = recall::operations(model, LENGTH)?;
        let mut row = vec![(*name).to_owned(), model.init(0).numel().to_string(), format!("{:.0}k", operations / 1e3)];
        row.extend((0..4).map(|i| over(&runs, 0, |run| share(run, i)) + " %"));
        row.push(over(&runs, 3, |run| of(run, |_| true, |a| a.loss)));
        rows.push(row);
        let points = (0..4).map(|i| (i as f64 + 1.0, runs.iter().map(|run| share(run, i)).collect())).collect();
        lines.push(Line { name: (*name).to_owned(), points });
    }
    report.say(&format!(
        "Right answers after {steps} steps; texts of {LENGTH} tokens in segments of {SEGMENT}, chance is 12 %:"
    ));
    let head =
        ["model", "parameters", "operations a token", "near", "16 to 47", "48 and more", "lasting", "loss, nats"];
    report.table(&head, &rows);
    let axes = ["1 near, 2 named 16 to 47 tokens before, 3 further, 4 lasting facts", "right, %"];
    report.picture(
        "mixed",
        &Picture { title: "Right answers by what they need", axes, factors: [false; 2], lines: &lines },
    )
}

fn main() -> std::process::ExitCode {
    support::program("mixed", run)
}
