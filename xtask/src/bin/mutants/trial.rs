//! Tries mutants against the test programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::list::Mutant;

/// Beyond this much of its own time, and half a minute, a test hangs.
const PATIENCE: u32 = 4;
/// Of address space, in KiB: a mutant may ask for any amount of memory.
const MEMORY: u32 = 8 << 20;
/// The number that stands for no mutant, and says which ones are reached.
const SURVEY: usize = 4096;

/// A test, or one sample of a generic test: what it takes without a mutant, and the mutants that it reaches.
struct Trial {
    program: PathBuf,
    test: String,
    sample: Option<String>,
    time: Duration,
    reaches: Vec<usize>,
}

/// Tries each mutant on every test that reaches it until one fails; prints each result, and the counts.
pub fn all(root: &Path, programs: &[(String, PathBuf)], mutants: &[&Mutant], every: usize) -> Result<()> {
    let mut trials = Vec::new();
    for (name, path) in programs {
        let start = Instant::now();
        let found = tests(root, name, path, every)?;
        println!("{name}: {} trials, {:.0} s", found.len(), start.elapsed().as_secs_f32());
        trials.extend(found);
    }
    // The quick ones first.
    trials.sort_by_key(|trial| trial.time);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for mutant in mutants {
        let verdict = one(root, &trials, mutant)?;
        *counts.entry(verdict).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    println!("{} tried: {}", mutants.len(), counts.join(", "));
    Ok(())
}

/// The tests of a program, each run once unchanged; the generic ones sample by sample.
fn tests(root: &Path, name: &str, path: &Path, every: usize) -> Result<Vec<Trial>> {
    let listed = command(root, path, 0).arg("--list").output().context("cannot start a test program")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let generic = ["kernels", "gradients"].contains(&name);
    let mut found = Vec::new();
    for test in listed.lines().filter_map(|line| line.strip_suffix(": test")).filter(|test| !test.contains("gpu")) {
        let samples: Vec<Option<String>> = match generic {
            true => samples(root, path, test)?.into_iter().step_by(every).map(Some).collect(),
            false => vec![None],
        };
        for sample in samples {
            found.extend(survey(root, path, test, sample)?);
        }
    }
    Ok(found)
}

/// The samples of a generic test, from the lines that it prints: a name, spaces, a difference.
fn samples(root: &Path, path: &Path, test: &str) -> Result<Vec<String>> {
    let out = command(root, path, 0).args(["--exact", test, "--nocapture"]).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let named = text.lines().filter_map(|line| {
        let (name, difference) = line.trim_end().rsplit_once(' ')?;
        difference.parse::<f64>().ok().filter(|_| difference.contains('e')).map(|_| name.trim_end().to_owned())
    });
    Ok(named.collect())
}

/// Runs a test unchanged; none if it is one that does not run by itself.
fn survey(root: &Path, path: &Path, test: &str, sample: Option<String>) -> Result<Option<Trial>> {
    let reached = root.join("target/mutants/reached");
    let _ = fs::remove_file(&reached);
    let start = Instant::now();
    let mut trial =
        Trial { program: path.to_owned(), test: test.to_owned(), sample, time: start.elapsed(), reaches: vec![] };
    let out = trial.command(root, SURVEY).env("MUTANTS_REACHED", &reached).output()?;
    if !out.status.success() {
        bail!("{test} fails without any mutant:\n{}", String::from_utf8_lossy(&out.stdout));
    }
    trial.time = start.elapsed();
    let text = fs::read_to_string(&reached).unwrap_or_default();
    trial.reaches = text.lines().filter_map(|line| line.parse().ok()).collect();
    Ok(Some(trial).filter(|trial| !trial.reaches.is_empty()))
}

impl Trial {
    fn command(&self, root: &Path, id: usize) -> Command {
        let mut command = command(root, &self.program, id);
        command.args(["--exact", &self.test]);
        if let Some(sample) = &self.sample {
            command.env("WGRAD_SAMPLE", sample);
        }
        command
    }
}

fn one(root: &Path, trials: &[Trial], mutant: &Mutant) -> Result<&'static str> {
    let mut verdict = "not reached";
    let mut by = String::new();
    let start = Instant::now();
    for trial in trials.iter().filter(|trial| trial.reaches.contains(&mutant.id)) {
        verdict = "survived";
        if let Some(end) = fails(root, trial, mutant.id)? {
            (verdict, by) = (end, format!(" by {} {}", trial.test, trial.sample.as_deref().unwrap_or_default()));
            break;
        }
    }
    println!("{verdict}{by}  {:.1} s  {:4} {}", start.elapsed().as_secs_f32(), mutant.id, mutant.name);
    Ok(verdict)
}

/// How a test fails under a mutant, if it does.
fn fails(root: &Path, trial: &Trial, id: usize) -> Result<Option<&'static str>> {
    let start = Instant::now();
    let mut command = trial.command(root, id);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start a test program")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some("caught").filter(|_| !status.success()));
        }
        if start.elapsed() > trial.time * PATIENCE + Duration::from_secs(30) {
            child.kill()?;
            child.wait()?;
            return Ok(Some("caught (hung)"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A test program with a mutant, on the CPU alone.
fn command(root: &Path, program: &Path, id: usize) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\"")]).arg(program);
    // What the tests read lies beside the copy's manifest.
    command.current_dir(root.join("target/mutants")).env("MUTANT", id.to_string());
    command.env("WGRAD_ALLOW_MISSING", "1").env("VK_DRIVER_FILES", "/nonexistent").env_remove("WGRAD_TEST_ADAPTER");
    command.env("INSTA_UPDATE", "no").stdin(Stdio::null());
    command
}
