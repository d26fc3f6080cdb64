//! What cargo-mutants would change, and a sample of it.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Genre {
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    /// Not built here.
    Other,
}

/// One change of the source.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// From 1 on, in the order of the sample.
    pub id: usize,
    pub name: String,
    pub file: String,
    pub genre: Genre,
    /// Line and column of both ends, counted from 1.
    pub span: [[usize; 2]; 2],
    pub replacement: String,
}

/// The graph, the tape, the planner, and of the operations what the CPU executor runs.
const FILES: [&str; 4] = ["src/graph/**/*.rs", "src/plan/**/*.rs", "src/ops/**/*.rs", "src/kernels/scalar.rs"];

/// Text for people, samples for tests, and what only a GPU runs.
fn left_out(file: &str, function: &str) -> bool {
    let name = function.rsplit("::").next().unwrap_or(function);
    let gpu = ["scalar", "samples", "fmt", "name", "dispatch", "grid", "literal"].contains(&name);
    let generic = ["src/ops/samples.rs", "src/plan/print.rs"].contains(&file);
    gpu || generic || name.starts_with("lower") || name.contains("wgsl")
}

/// `count` mutants, the same ones for the same seed and source.
pub fn sample(root: &Path, count: usize, seed: u64) -> Result<Vec<Mutant>> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["mutants", "--list", "--json", "--package", "wgrad"]);
    command.args(FILES.iter().flat_map(|file| ["--file", file]));
    let out = command.output().context("cannot start cargo")?;
    if !out.status.success() {
        let reason = String::from_utf8_lossy(&out.stderr).into_owned();
        bail!("`cargo mutants --list` failed (cargo install cargo-mutants --locked): {reason}");
    }
    let all: Value = serde_json::from_slice(&out.stdout).context("cargo-mutants printed no JSON")?;
    let all = all.as_array().context("cargo-mutants printed no list")?;
    let mut mutants = all.iter().filter_map(read).collect::<Vec<_>>();
    println!("{} mutants of {} are in what the CPU runs", mutants.len(), all.len());
    // By a name without the line, the so-manieth of its kind: lines that move leave the sample as it is.
    let mut same: HashMap<String, usize> = HashMap::new();
    mutants.sort_by_cached_key(|mutant| {
        let text = mutant.name.splitn(4, ':').last().unwrap_or_default();
        let name = format!("{}:{text}", mutant.file);
        let number = same.entry(name.clone()).or_default();
        *number += 1;
        let name = format!("{name} {number}");
        (mix(seed, &name), name)
    });
    // Every third from the graph and the planner, which are small beside the operations.
    let (ops, core): (Vec<_>, Vec<_>) =
        mutants.into_iter().partition(|mutant| !["src/graph", "src/plan"].iter().any(|f| mutant.file.starts_with(f)));
    let (mut ops, mut core) = (ops.into_iter(), core.into_iter());
    let mut mutants: Vec<Mutant> = Vec::new();
    while mutants.len() < count {
        let first = if mutants.len().is_multiple_of(3) { core.next().or_else(|| ops.next()) } else { ops.next() };
        let Some(mutant) = first.or_else(|| core.next()) else { break };
        mutants.push(mutant);
    }
    for (i, mutant) in mutants.iter_mut().enumerate() {
        mutant.id = i + 1;
    }
    Ok(mutants)
}

fn read(value: &Value) -> Option<Mutant> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let place = |end: &Value| Some([end["line"].as_u64()? as usize, end["column"].as_u64()? as usize]);
    let file = text(&value["file"])?;
    if left_out(&file, value["function"]["function_name"].as_str().unwrap_or_default()) {
        return None;
    }
    let genre = match value["genre"].as_str()? {
        "FnValue" => Genre::FnValue,
        "BinaryOperator" => Genre::BinaryOperator,
        "UnaryOperator" => Genre::UnaryOperator,
        "MatchArm" => Genre::MatchArm,
        "MatchArmGuard" => Genre::MatchArmGuard,
        _ => Genre::Other,
    };
    let span = [place(&value["span"]["start"])?, place(&value["span"]["end"])?];
    Some(Mutant { id: 0, name: text(&value["name"])?, file, genre, span, replacement: text(&value["replacement"])? })
}

/// FNV-1a over the seed and a name, its bits mixed once more.
fn mix(seed: u64, name: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
