//! Infini-attention, block recurrence, routing and product keys in one model, against a model of each alone with the same
//! number of parameters, on texts that ask for what was named near, for what was named far back, and for lasting facts.
//!
//! `cargo run --release --example claims_mixed`

mod arms;
#[path = "../recall/mod.rs"]
mod recall;
#[path = "../support/mod.rs"]
mod support;

use arms::{LENGTH, SEGMENT, arms};
use recall::{Answer, Needs, Task, of};
use support::{Line, Picture, Point, Report, over};
use wgrad::Result;

/// What questions need.
const NEEDS: [&str; 4] = ["under 16", "16 to 47", "48 and more", "lasting fact"];

fn run(report: &mut Report) -> Result<()> {
    let steps = report.args.size(600, 2);
    let far = |a: &Answer, range: std::ops::Range<usize>| matches!(a.needs, Needs::Thing(d) if range.contains(&d));
    let meant = |a: &Answer, i: usize| match i {
        0 => far(a, 0..SEGMENT),
        1 => far(a, SEGMENT..3 * SEGMENT),
        2 => far(a, 3 * SEGMENT..LENGTH),
        _ => a.needs == Needs::Fact,
    };
    let (mut rows, mut lines) = (Vec::new(), Vec::new());
    let arms = arms()?;
    let task = Task { length: LENGTH, things: 8, asking: 2, lasting: true };
    let all = report.args.each(&arms, |(_, model), seed| recall::train(model, task, seed, (steps, 3e-3)))?;
    for ((name, model), runs) in arms.iter().zip(all) {
        let share = |run: &Vec<Answer>, i| 100.0 * of(run, |a| meant(a, i), |a| f64::from(u8::from(a.right)));
        let operations = recall::operations(model, LENGTH)?;
        let mut row = vec![(*name).to_owned(), model.init(0).numel().to_string(), format!("{:.0}k", operations / 1e3)];
        row.extend((0..4).map(|i| over(&runs, 0, |run| share(run, i)) + " %"));
        row.push(over(&runs, 3, |run| of(run, |_| true, |a| a.loss)));
        rows.push(row);
        let shares = |i: usize| runs.iter().map(|run| share(run, i)).collect::<Vec<_>>();
        lines.push(Line::new(name, (0..NEEDS.len()).map(|i| Point::of(i as f64, &shares(i)))));
    }
    report.say(&format!(
        "Right answers after {steps} steps; texts of {LENGTH} tokens in segments of {SEGMENT}, chance is 12 %:"
    ));
    let head =
        ["model", "parameters", "operations a token", "near", "16 to 47", "48 and more", "lasting", "loss, nats"];
    report.table(&head, &rows);
    let axes = ["what the answer needs: a thing named so many tokens before, or a lasting fact", "right, %"];
    let picture = Picture::new("Right answers by what they need", axes, [false; 2], lines);
    report.picture("mixed", Picture { places: NEEDS.map(str::to_owned).into(), joined: false, ..picture });
    Ok(())
}

fn main() -> std::process::ExitCode {
    support::program("mixed", run)
}
