//! Block recurrence carries facts beyond the window of attention (Hutchins et al. 2022, arXiv 2203.07852): loss by distance to
//! the fact that a question needs, and by position in the text, for the memory of the last block alone (Transformer-XL, Dai et
//! al. 2019, arXiv 1901.02860), with recurrent states, and with a routed memory of all past inputs.
//!
//! `cargo run --release --example claims_recurrence`

mod model;
#[path = "../recall/mod.rs"]
mod recall;
#[path = "../support/mod.rs"]
mod support;

use model::{LENGTH, model};
use recall::texts::VALUES;
use recall::{Answer, Needs, Task, of};
use support::{Line, Picture, Point, Report, over};
use wgrad::Result;

/// Where ranges of distances, and of positions, begin.
const FROM: [usize; 4] = [0, 16, 32, 64];
const RANGES: [&str; 4] = ["under 16", "16 to 31", "32 to 63", "64 to 127"];

/// The range that begins at `FROM[i]`.
fn within(i: usize, value: usize) -> bool {
    value >= FROM[i] && FROM.get(i + 1).is_none_or(|next| value < *next)
}

fn run(report: &mut Report) -> Result<()> {
    let steps = report.args.size(1200, 2);
    let arms =
        [("XL only", model(false, false)?), ("recurrent", model(true, false)?), ("routed memory", model(false, true)?)];
    let task = Task { length: LENGTH, things: 4, asking: 5, lasting: false };
    let all = report.args.each(&arms, |(_, model), seed| recall::train(model, task, seed, (steps, 5e-3)))?;
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    let (mut lines, mut sizes) = (Vec::new(), Vec::new());
    for ((name, model), runs) in arms.iter().zip(all) {
        let far = |a: &Answer| if let Needs::Thing(distance) = a.needs { distance } else { 0 };
        let loss =
            |run: &[Answer], i: usize, of_what: fn(&Answer, usize) -> bool| of(run, |a| of_what(a, i), |a| a.loss);
        let by_distance =
            |i: usize| runs.iter().map(|run| of(run, |a| within(i, far(a)), |a| a.loss)).collect::<Vec<_>>();
        let at = |a: &Answer, i: usize| within(i, a.position);
        let right = over(&runs, 0, |run| 100.0 * of(run, |_| true, |a| f64::from(u8::from(a.right)))) + " %";
        let cells = (0..FROM.len()).map(|i| support::numbers::spread(&by_distance(i), 2));
        rows.push(std::iter::once((*name).to_owned()).chain(cells).chain([right]).collect());
        let cells = (0..FROM.len()).map(|i| over(&runs, 2, |run| loss(run, i, at)));
        places.push(std::iter::once((*name).to_owned()).chain(cells).collect());
        lines.push(Line::new(name, (0..FROM.len()).map(|i| Point::of(i as f64, &by_distance(i)))));
        let operations = recall::operations(model, LENGTH)?;
        sizes.push(format!(
            "{name}: {} parameters, {:.0}k operations a token",
            model.init(0).numel(),
            operations / 1e3
        ));
    }
    report.say(&format!("{steps} steps; {}. Chance is {:.2} nats.", sizes.join("; "), f64::from(VALUES).ln()));
    report.say("Loss in nats by the distance to the fact:");
    report.table(&[&["distance in tokens"], &RANGES[..], &["right"]].concat(), &rows);
    report.say("Loss in nats by the position of the question:");
    report.table(&[&["position in the text"], &RANGES[..]].concat(), &places);
    let axes = ["distance to the fact, tokens", "loss in nats"];
    let picture = Picture::new("Loss by distance to the needed fact", axes, [false; 2], lines);
    report.picture("recurrence", Picture { places: RANGES.map(str::to_owned).into(), ..picture });
    Ok(())
}

fn main() -> std::process::ExitCode {
    support::program("recurrence", run)
}
