//! A product-key memory holds more at the same compute (Lample et al. 2019, arXiv 1907.05242): perplexity on a language of
//! facts, against dense transformers of equal compute and of equal parameters. And new facts are learned with less
//! forgetting where only the slots that matter for them are trained (Lin et al. 2025, OpenReview LGo7U1m24L).
//!
//! `cargo run --release --example claims_product_keys`

mod facts;
mod measure;
#[path = "../support/mod.rs"]
mod support;

use facts::{ALL, Model, NEW};
use measure::measure;
use support::{Line, Picture, Point, Report, over};
use wgrad::Result;

/// Features of a token of the model with the memory.
const DIM: usize = 32;

/// The width at which a dense model has nearest to so much of something.
fn width(target: f64, of: impl Fn(&Model) -> Result<f64>) -> Result<usize> {
    let mut best = (f64::MAX, 0);
    for dim in (16..=128).step_by(4) {
        let off = (of(&Model::new(dim, false)?)? / target).ln().abs();
        best = if off < best.0 { (off, dim) } else { best };
    }
    Ok(best.1)
}

fn run(report: &mut Report) -> Result<()> {
    let steps = report.args.size(1000, 8);
    let memory = Model::new(DIM, true)?;
    let size = |model: &Model| Ok(model.init(0).numel() as f64);
    let same_compute = width(memory.operations()?, Model::operations)?;
    let same_size = width(size(&memory)?, size)?;
    let (mut rows, mut tuned, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    let arms = [
        ("product keys", Model::new(DIM, true)?, DIM),
        ("dense, equal compute", Model::new(same_compute, false)?, same_compute),
        ("dense, equal parameters", Model::new(same_size, false)?, same_size),
    ];
    let all = report.args.each(&arms, |(_, model, _), seed| measure(model, seed, steps))?;
    for ((name, model, dim), runs) in arms.iter().zip(all) {
        let mut row =
            vec![(*name).to_owned(), format!("{:.0}", size(model)?), format!("{:.1}k", model.operations()? / 1e3)];
        row.extend((0..4).map(|quarter| over(&runs, 2, |run| run.perplexity[quarter])));
        row.push(over(&runs, 1, |run| run.right) + " %");
        rows.push(row);
        if model.slots() > 0 {
            let (used, divergence) = (over(&runs, 1, |run| run.used), over(&runs, 2, |run| run.divergence));
            report.say(&format!(
                "Of {} slots {used} % are read for the {} facts; the gates are {divergence} nats from uniform use \
                 (all on one slot: {:.2}).",
                model.slots(),
                ALL - NEW,
                (model.slots() as f64).ln()
            ));
        }
        for (i, (way, _)) in runs[0].tuned.iter().enumerate() {
            let cell = |which: usize| over(&runs, 1, |run| run.tuned[i].1[which]) + " %";
            tuned.push(vec![format!("{name}: {way}"), cell(0), over(&runs, 1, |run| run.right) + " %", cell(1)]);
        }
        let of = |quarter: usize| runs.iter().map(|run| run.perplexity[quarter]).collect::<Vec<_>>();
        let points = (0..4).map(|quarter| Point::of((steps * (quarter + 1) / 4) as f64, &of(quarter)));
        lines.push(Line::new(&format!("{name}, width {dim}"), points));
    }
    report.say(&format!(
        "Perplexity of the objects of {} facts, of 64 objects, after each quarter of {steps} steps:",
        ALL - NEW
    ));
    let head = ["model", "parameters", "operations a token", "first", "second", "third", "last", "right"];
    report.table(&head, &rows);
    report.say(&format!("Then {NEW} new facts, {} steps:", steps / 8));
    report.table(&["what is fine-tuned", "new facts right", "old facts right before", "after"], &tuned);
    let axes = ["steps", "perplexity"];
    report.picture("product_keys", Picture::new("Perplexity of facts", axes, [false, true], lines));
    Ok(())
}

fn main() -> std::process::ExitCode {
    support::program("product_keys", run)
}
