//! The programs of `docs/claims.md`, a few steps each: that they run and have tables to show, not what the tables say;
//! and that the pictures show what stands beside them.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::run;

/// Draws their pictures from results that are kept.
const DRAWS: &str = "claims_draw";
const PROGRAMS: [&str; 5] = ["infini", "product_keys", "routing", "recurrence", "mixed"];

fn built(program: &str) -> PathBuf {
    run::target().join("debug/examples").join(format!("{program}{}", std::env::consts::EXE_SUFFIX))
}

/// Runs all and says what was seen.
pub fn check() -> Result<String> {
    let names: Vec<String> = PROGRAMS.iter().map(|name| format!("claims_{name}")).collect();
    let examples = names.iter().flat_map(|name| ["--example", name]);
    run::run(run::cargo().args(["build", "--quiet", "--package", "wgrad", "--example", DRAWS]).args(examples))?;
    let page = fs::read_to_string(run::root().join("docs/claims.md")).context("no docs/claims.md")?;
    let start = Instant::now();
    for (name, program) in PROGRAMS.iter().zip(&names) {
        let said = run::output(run::command(built(program)).args(["--quick", "--seeds", "1"]))?;
        let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
        ensure!(said.contains("| --- |"), "{program} printed no table:\n{said}");
        let section = page.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map(|(text, _)| text);
        let section = section.with_context(|| format!("docs/claims.md has no {begin} with {end} behind it"))?;
        // Every table that is printed stands on the page, with the same head; or the page says that it does not.
        if section.contains("Not measured yet") {
            continue;
        }
        for head in said.lines().zip(said.lines().skip(1)).filter(|(_, next)| next.starts_with("| --- |")) {
            ensure!(section.contains(head.0), "docs/claims.md lacks the table of {program}: {}", head.0);
        }
    }
    run::output(run::command(built(DRAWS)).arg("--check"))?;
    Ok(format!("{} programs, {:.0} s", PROGRAMS.len(), start.elapsed().as_secs_f64()))
}
