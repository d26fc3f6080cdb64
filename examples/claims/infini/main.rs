//! Infini-attention finds a passkey at 64 times the length it was trained on, with a memory that does not grow (Munkhdalai
//! et al. 2024, arXiv 2404.07143). With the memory, without it, with the delta rule.
//!
//! `cargo run --release --example claims_infini`

mod passkey;
#[path = "../support/mod.rs"]
mod support;

use passkey::{Arm, BATCH, KEYS, SEGMENT, TESTED, TRAINED, model, train};
use support::{Line, Picture, Point, Report, over};
use wgrad::Result;

/// Passkeys found; answers with the bytes of a text's state.
fn found(report: &mut Report) -> Result<f64> {
    let (steps, tested) = (report.args.size(1200, 3), report.args.size(4 * BATCH, BATCH));
    let arms = [("with memory", Arm::Memory), ("without memory", Arm::Without), ("memory with delta rule", Arm::Delta)];
    let (mut rows, mut lines, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    let all = report.args.each(&arms, |(_, arm), seed| train(*arm, seed, steps, tested))?;
    for ((name, _), runs) in arms.iter().zip(all) {
        let cells = (0..TESTED.len()).map(|i| over(&runs, 0, |(found, _)| found[i]) + " %");
        rows.push(std::iter::once((*name).to_owned()).chain(cells).collect());
        let point = |(i, segments): (usize, &usize)| {
            let found: Vec<f64> = runs.iter().map(|(found, _)| found[i]).collect();
            Point::of((segments * SEGMENT) as f64, &found)
        };
        lines.push(Line::new(name, TESTED.iter().enumerate().map(point)));
        bytes = runs[0].1;
    }
    report.say(&format!(
        "Share of texts whose passkey, one of {KEYS}, is found; {steps} steps of {BATCH} texts of {} tokens:",
        TRAINED * SEGMENT
    ));
    report.table(&["tokens of the text", "64 (trained)", "256 (4x)", "1,024 (16x)", "4,096 (64x)"], &rows);
    let axes = ["tokens of the text", "passkeys found, %"];
    report.picture("infini", Picture::new("Passkey retrieval", axes, [true, false], lines));
    Ok(bytes)
}

/// Bytes of a memory against those of a cache of keys and values.
fn sizes(report: &mut Report, bytes: f64) -> Result<()> {
    let c = model(Arm::Memory)?;
    let c = c.config();
    let cache = (2 * c.depth * c.heads * c.dim_head * 4) as f64;
    let kept =
        |tokens: f64| vec![format!("{bytes}"), format!("{}", cache * tokens), format!("{:.1}", cache * tokens / bytes)];
    let lengths = TESTED.iter().map(|segments| (segments * SEGMENT) as f64).chain([1e6]);
    let rows: Vec<_> = lengths.map(|n| [vec![format!("{n}")], kept(n)].concat()).collect();
    report.say(
        "Bytes of a text's state, as its stream holds them (memory, and keys and values of the segment), and of a \
                cache of all keys and values of the same model:",
    );
    report.table(&["tokens", "with memory", "keys and values", "ratio"], &rows);
    // Section 4.1 of the paper: 12 layers of 8 heads of 128 features.
    let (memory, cache) = (12.0 * 8.0 * 128.0 * 129.0, 12.0 * 8.0 * 2.0 * 128.0);
    report.say(&format!(
        "Counted by the same rule for the paper's model (12 layers of 8 heads of 128 features) the memory is {:.2} million \
         numbers at any length; so much is a cache of {:.1} tokens, and a cache of 65,536 tokens is {:.0} times it, one of a \
         million tokens {:.0} times. The paper's 114 times is against a Memorizing Transformer.",
        memory / 1e6,
        memory / cache,
        cache * 65_536.0 / memory,
        cache * 1e6 / memory
    ));
    Ok(())
}

fn run(report: &mut Report) -> Result<()> {
    let bytes = found(report)?;
    sizes(report, bytes)
}

fn main() -> std::process::ExitCode {
    support::program("infini", run)
}
