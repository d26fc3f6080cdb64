//! CoLT5's block spends its compute where it matters (Ainslie et al. 2023, arXiv 2303.09752): loss against compute for routed
//! and full blocks, their operations and time from 1,024 to 65,536 tokens, and the soft top-k that routes, exact against
//! iterated.
//!
//! `cargo run --release --example claims_routing`

mod lengths;
mod loss;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../router_learns/task/mod.rs"]
mod task;

use support::{Line, Picture, Point, Report, over};
use wgrad::Result;
use wgrad::ops::route::soft_top_k::SoftTopK;

/// Operations and time against length.
fn length(report: &mut Report, lengths: &[usize]) -> Result<()> {
    let (mut rows, mut lines) = (Vec::new(), [Line::new("routed", []), Line::new("all heavy", [])]);
    for n in lengths {
        // One after the other: they are timed.
        let mut measure = |which: usize| -> Result<(f64, Vec<f64>)> {
            let runs =
                (0..report.args.seeds).map(|seed| lengths::block(*n, which == 1, seed)).collect::<Result<Vec<_>>>()?;
            let times: Vec<f64> = runs.iter().map(|run| run[1]).collect();
            lines[which].points.push(Point::of(*n as f64, &times));
            Ok((runs[0][0], times))
        };
        let ((routed, fast), (full, slow)) = (measure(0)?, measure(1)?);
        let ratios: Vec<f64> = slow.iter().zip(&fast).map(|(slow, fast)| slow / fast).collect();
        rows.push(vec![
            n.to_string(),
            format!("{:.0}k", routed / 1e3),
            format!("{:.0}k", full / 1e3),
            format!("{:.1}", full / routed),
            support::numbers::spread(&fast, 1),
            support::numbers::spread(&slow, 1),
            support::numbers::spread(&ratios, 1),
        ]);
    }
    report.say("A block forward, 1/16 of the tokens heavy (1/8 as keys) or all; milliseconds of processor time:");
    let head = ["tokens", "routed: operations a token", "all heavy", "ratio", "routed: ms", "all heavy: ms", "ratio"];
    report.table(&head, &rows);
    let axes = ["tokens", "ms of processor time"];
    report.picture("routing-time", Picture::new("A block against length", axes, [true, true], lines.into()));
    Ok(())
}

/// Exact against iterated.
fn soft_top_k(report: &mut Report, lengths: &[usize]) -> Result<()> {
    let ways = [
        ("exact, epsilon 0.03", SoftTopK::exact(0.03)),
        ("20 iterations (published)", SoftTopK::reference()),
        ("100 iterations", SoftTopK::iterations(100, 0.03).scaled(4.0, 0.7)),
    ];
    let mut rows = Vec::new();
    for n in lengths {
        for (name, how) in &ways {
            let runs =
                (0..report.args.seeds).map(|seed| lengths::soft_top_k(*n, how, seed)).collect::<Result<Vec<_>>>()?;
            let cell = |i: usize, digits| over(&runs, digits, |run| run[i]);
            rows.push(vec![n.to_string(), (*name).to_owned(), cell(0, 4) + " %", cell(1, 5), cell(2, 2)]);
        }
    }
    report.say("Soft top-k of 1/16 of the scores:");
    report.table(&["scores", "how", "sum is off by", "gradient is off by, of its norm", "ms with gradient"], &rows);
    Ok(())
}

fn run(report: &mut Report) -> Result<()> {
    let lengths = [1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];
    let count = report.args.size(lengths.len(), 1);
    length(report, &lengths[..count])?;
    soft_top_k(report, if report.args.quick { &[1024] } else { &[1024, 8192, 65_536] })?;
    loss::loss(report)
}

fn main() -> std::process::ExitCode {
    support::program("routing", run)
}
