//! `cargo xtask mutants`: are the tests any good? A seeded sample of cargo-mutants' changes to the graph, the tape, the
//! planner and the CPU twins, each tried against the tests. All of them are built into one program, which an environment
//! variable tells which change to make: one build instead of hundreds.

mod list;
mod rewrite;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::Value;

use list::Mutant;

#[derive(Parser)]
struct Args {
    /// How many mutants
    #[arg(long, default_value_t = 300)]
    count: usize,
    /// Which ones: equal seeds and sources give equal samples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these numbers of the sample
    #[arg(long, value_delimiter = ',')]
    only: Vec<usize>,
    /// Tests to try, in this order; `lib` stands for the unit tests
    #[arg(long, value_delimiter = ',', default_values = TESTS)]
    tests: Vec<String>,
    /// Of the generic tests only every so-manieth sample: quicker, and what survives is tried again with all of them
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Only say which ones
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?.to_path_buf();
    let mutants = list::sample(&root, args.count, args.seed)?;
    if args.list {
        mutants.iter().for_each(|mutant| println!("{:4} {}", mutant.id, mutant.name));
        return Ok(());
    }
    let copy = root.join("target/mutants");
    fresh(&root, &copy, &mutants)?;
    let not_built = build(&root, &copy, &mutants)?;
    let programs = programs(&root, &copy, &args.tests)?;
    let chosen = |mutant: &&Mutant| args.only.is_empty() || args.only.contains(&mutant.id);
    let tried: Vec<&Mutant> = mutants.iter().filter(chosen).filter(|mutant| !not_built.contains(&mutant.id)).collect();
    trial::all(&root, &programs, &tried, args.every.max(1))?;
    for mutant in mutants.iter().filter(|mutant| not_built.contains(&mutant.id)) {
        println!("not built  {:4} {}", mutant.id, mutant.name);
    }
    println!("{} of {} do not compile in one program with the others", not_built.len(), mutants.len());
    Ok(())
}

/// A copy of what git knows of the working tree, without the files that mutants are written into.
fn fresh(root: &Path, copy: &Path, mutants: &[Mutant]) -> Result<()> {
    let out = Command::new("git").current_dir(root).args(["ls-files", "-z"]).output().context("cannot start git")?;
    let written = |file: &str| file == LIB || mutants.iter().any(|mutant| mutant.file == file);
    for file in String::from_utf8_lossy(&out.stdout).split('\0').filter(|file| !file.is_empty() && !written(file)) {
        if let Ok(text) = fs::read(root.join(file)) {
            write(&copy.join(file), &text)?;
        }
    }
    Ok(())
}

/// What is there already keeps its time: cargo builds less.
fn write(path: &Path, text: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().context("a file without a folder")?)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

const LIB: &str = "src/lib.rs";

/// Writes all mutants into the copy, and takes back those that do not compile.
fn build(root: &Path, copy: &Path, mutants: &[Mutant]) -> Result<BTreeSet<usize>> {
    // Those of the last time, by name.
    let kept = copy.join("not-built");
    let known = fs::read_to_string(&kept).unwrap_or_default();
    let mut not_built: BTreeSet<usize> =
        mutants.iter().filter(|m| known.lines().any(|line| line == m.name)).map(|m| m.id).collect();
    let mut by_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    mutants.iter().for_each(|mutant| by_file.entry(&mutant.file).or_default().push(mutant));
    let lib = fs::read_to_string(root.join(LIB))?;
    write(&copy.join(LIB), (lib + rewrite::ROOT).as_bytes())?;
    let mut changed: BTreeSet<&str> = by_file.keys().copied().collect();
    loop {
        for file in std::mem::take(&mut changed) {
            let text = fs::read_to_string(root.join(file))?;
            let kept: Vec<&Mutant> = by_file[file].iter().copied().filter(|m| !not_built.contains(&m.id)).collect();
            let (text, left_out) = rewrite::file(&text, &kept).with_context(|| file.to_owned())?;
            not_built.extend(left_out);
            write(&copy.join(file), text.as_bytes())?;
        }
        let names: Vec<&str> = mutants.iter().filter(|m| not_built.contains(&m.id)).map(|m| m.name.as_str()).collect();
        write(&kept, names.join("\n").as_bytes())?;
        let errors = errors(root, copy)?;
        if errors.is_empty() {
            return Ok(not_built);
        }
        for (file, byte, message) in &errors {
            let rendered = fs::read_to_string(copy.join(file))?;
            let ids = rewrite::around(&rendered, *byte);
            if let Some((file, _)) = by_file.get_key_value(file.as_str()).filter(|_| !ids.is_empty()) {
                not_built.extend(ids);
                changed.insert(file);
            } else {
                eprintln!("outside of any mutant: {message}");
            }
        }
        println!("{} errors; {} mutants are left out", errors.len(), not_built.len());
        if changed.is_empty() {
            bail!("the mutants do not compile");
        }
    }
}

fn cargo(root: &Path, copy: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(copy).args([
        "test",
        "--no-run",
        "--package",
        "wgrad",
        "--message-format",
        "json",
        "--target-dir",
    ]);
    cargo.arg(root.join("target")).env("CARGO_PROFILE_DEV_DEBUG", "false");
    cargo
}

/// File, byte and text of each error of the library.
fn errors(root: &Path, copy: &Path) -> Result<Vec<(String, usize, String)>> {
    // As for the tests, whose dependencies have features of their own.
    let out = cargo(root, copy).args(["--test", "parity"]).output().context("cannot start cargo")?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let message = &value["message"];
        if message["level"] != "error" {
            continue;
        }
        for span in message["spans"].as_array().into_iter().flatten().filter(|span| span["is_primary"] == true) {
            let file = span["file_name"].as_str().unwrap_or_default().to_owned();
            let byte = span["byte_start"].as_u64().unwrap_or(0) as usize;
            found.push((file, byte, message["rendered"].as_str().unwrap_or_default().to_owned()));
        }
    }
    if found.is_empty() && !out.status.success() {
        bail!("{}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(found)
}

/// The test programs that need no GPU, in the order in which they are tried.
const TESTS: [&str; 8] = ["parity", "gradients", "kernels", "engine", "lib", "random_programs", "ops", "training"];

/// Builds the tests: name and path of each program.
fn programs(root: &Path, copy: &Path, tests: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = cargo(root, copy);
    for test in tests {
        match test.as_str() {
            "lib" => cargo.arg("--lib"),
            test => cargo.args(["--test", test]),
        };
    }
    let out = cargo.output().context("cannot start cargo")?;
    if !out.status.success() {
        bail!("{}", String::from_utf8_lossy(&out.stderr));
    }
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        if let (Some(path), Some(name)) = (value["executable"].as_str(), value["target"]["name"].as_str()) {
            let name = if name == "wgrad" { "lib" } else { name };
            found.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    found.sort_by_key(|(name, _)| tests.iter().position(|test| test == name));
    Ok(found)
}
