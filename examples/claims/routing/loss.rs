//! Loss against compute, on a task in which it matters which tokens are heavy.

use super::support::{Line, Picture, Point, Report, over};
use super::task::{self, ANSWERS, ASKED, LENGTH, MARKED, Measured, Routing};
use wgrad::{Device, Result};

/// More and more tokens are heavy.
pub fn loss(report: &mut Report) -> Result<()> {
    let steps = report.args.size(400, 4) as u64;
    let arms = [(0, Routing::Learned, 16), (0, Routing::Learned, 32), (0, Routing::Learned, 64)];
    let arms = [&arms[..], &[(1, Routing::Random, 32), (2, Routing::All, LENGTH)]].concat();
    let all = report.args.each(&arms, |(_, routing, heavy), seed| {
        let measured = task::train(&Device::cpu(), (*routing, *heavy), seed, (steps, 5e-3))?;
        Ok(measured.last().copied().unwrap_or_default())
    })?;
    let mut rows = Vec::new();
    let mut lines = ["learned", "random", "all heavy"].map(|name| Line::new(name, []));
    for ((line, _, heavy), runs) in arms.iter().zip(&all) {
        let runs: &[Measured] = runs;
        rows.push(vec![
            format!("{}, {heavy} of {LENGTH}", lines[*line].name),
            format!("{:.1}k", runs[0].operations / 1e3),
            over(runs, 3, |run| run.loss),
            over(runs, 0, |run| 100.0 * run.marked) + " %",
        ]);
        let losses: Vec<f64> = runs.iter().map(|run| run.loss).collect();
        lines[*line].points.push(Point::of(runs[0].operations, &losses));
    }
    report.say(&format!(
        "Loss on held-out sequences: {LENGTH} tokens, of which {MARKED} know the answer and {ASKED} are asked for it; {steps} \
         steps, chance is {:.3}.",
        f64::from(ANSWERS).ln()
    ));
    report.table(&["heavy tokens", "operations a token", "loss in nats", "of those who know, routed"], &rows);
    let axes = ["operations a token, forward", "loss in nats"];
    report.picture("routing-loss", Picture::new("Loss against compute", axes, [true, false], lines.into()));
    Ok(())
}
