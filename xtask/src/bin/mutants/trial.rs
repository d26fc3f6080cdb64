//! Tries mutants against the test programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::list::Mutant;

/// Beyond this much of its own time, and a minute, a test program hangs.
const PATIENCE: u32 = 4;
/// Of address space, in KiB: a mutant may ask for any amount of memory.
const MEMORY: u32 = 8 << 20;
/// The number that stands for no mutant, and says which ones are reached.
const SURVEY: usize = 4096;

/// A test program, what it takes without a mutant, and the mutants that it reaches.
struct Program {
    name: String,
    path: PathBuf,
    time: Duration,
    reaches: Vec<usize>,
}

/// Tries each mutant on every program that reaches it until one fails; prints each result, and the counts.
pub fn all(root: &Path, programs: &[(String, PathBuf)], mutants: &[&Mutant]) -> Result<()> {
    let programs = programs.iter().map(|(name, path)| survey(root, name, path)).collect::<Result<Vec<_>>>()?;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for mutant in mutants {
        let verdict = one(root, &programs, mutant)?;
        *counts.entry(verdict).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    println!("{} tried: {}", mutants.len(), counts.join(", "));
    Ok(())
}

/// Runs a program unchanged.
fn survey(root: &Path, name: &str, path: &Path) -> Result<Program> {
    let reached = root.join("target/mutants").join(format!("{name}.reached"));
    let _ = fs::remove_file(&reached);
    let start = Instant::now();
    let mut command = command(root, path, SURVEY);
    let out = command.env("MUTANTS_REACHED", &reached).output().context("cannot start a test program")?;
    if !out.status.success() {
        bail!("{name} fails without any mutant:\n{}", String::from_utf8_lossy(&out.stdout));
    }
    let text = fs::read_to_string(&reached).unwrap_or_default();
    let reaches: Vec<usize> = text.lines().filter_map(|line| line.parse().ok()).collect();
    println!("{name}: {:.1} s, reaches {}", start.elapsed().as_secs_f32(), reaches.len());
    Ok(Program { name: name.to_owned(), path: path.to_path_buf(), time: start.elapsed(), reaches })
}

fn one(root: &Path, programs: &[Program], mutant: &Mutant) -> Result<&'static str> {
    let mut verdict = "not reached";
    let mut by = String::new();
    let start = Instant::now();
    for program in programs.iter().filter(|program| program.reaches.contains(&mutant.id)) {
        verdict = "survived";
        if let Some(end) = fails(root, program, mutant.id)? {
            (verdict, by) = (end, format!(" by {}", program.name));
            break;
        }
    }
    println!("{verdict}{by}  {:.1} s  {:4} {}", start.elapsed().as_secs_f32(), mutant.id, mutant.name);
    Ok(verdict)
}

/// How a program fails under a mutant, if it does.
fn fails(root: &Path, program: &Program, id: usize) -> Result<Option<&'static str>> {
    let start = Instant::now();
    let mut command = command(root, &program.path, id);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start a test program")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some("caught").filter(|_| !status.success()));
        }
        if start.elapsed() > program.time * PATIENCE + Duration::from_secs(60) {
            child.kill()?;
            child.wait()?;
            return Ok(Some("caught (hung)"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A test program with a mutant, on the CPU alone.
fn command(root: &Path, program: &Path, id: usize) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {MEMORY}; exec \"$0\"")]).arg(program);
    // What the tests read lies beside the copy's manifest.
    command.current_dir(root.join("target/mutants")).env("MUTANT", id.to_string());
    command.env("WGRAD_ALLOW_MISSING", "1").env("VK_DRIVER_FILES", "/nonexistent").env_remove("WGRAD_TEST_ADAPTER");
    command.env("INSTA_UPDATE", "no").stdin(Stdio::null());
    command
}
