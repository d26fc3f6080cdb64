//! The main job as a person runs it, at a small size: its records, going on from a checkpoint, an interrupt, bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::run;

const SMALL: &[&str] = &["--device", "cpu", "--segments", "2", "--segment-length", "16", "--batch", "2", "--dim", "32"];
const KEYS: [&str; 5] = ["step", "loss", "tokens_per_s", "device_bytes", "device"];

/// Runs everything and says what was seen.
pub fn check() -> Result<String> {
    run::run(run::cargo().args(["build", "--quiet", "--package", "wgrad", "--example", "train_text"]))?;
    let folder = run::target().join("job");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot empty target/job")?;
    }
    fs::create_dir_all(&folder).context("cannot make target/job")?;
    let file = |name: &str| folder.join(name);

    job(&["--steps", "20"], &file("whole.safetensors"), &["--json", text(&file("whole.jsonl"))?])?;
    records(&file("whole.jsonl"), 20)?;
    job(&["--steps", "10"], &file("half.safetensors"), &[])?;
    job(&["--steps", "20"], &file("resumed.safetensors"), &["--resume", text(&file("half.safetensors"))?])?;
    let same = fs::read(file("whole.safetensors"))? == fs::read(file("resumed.safetensors"))?;
    ensure!(same, "10 steps and 10 resumed ones differ from 20 in one go");

    let routed = file("routed.safetensors");
    job(&["--steps", "3", "--memory", "routed"], &routed, &[])?;
    let recurrent = file("recurrent.safetensors");
    job(&["--steps", "3", "--memory", "recurrent"], &recurrent, &[])?;
    job(&["--steps", "4", "--memory", "recurrent"], &recurrent, &["--resume", text(&recurrent)?])?;
    job(&["--steps", "3", "--memory", "pkm", "--pkm-keys", "20"], &file("pkm.safetensors"), &[])?;
    let pkm = ["--steps", "6", "--memory", "pkm", "--pkm-keys", "20"];
    job(&pkm, &file("pkm-resumed.safetensors"), &["--resume", text(&file("pkm.safetensors"))?])?;
    mixed(&file("mixed.safetensors"), &file("wrong.json"))?;
    let out = example(&["--steps", "4"], &file("none"), &["--resume", text(&routed)?]).output()?;
    ensure!(!out.status.success() && !file("none").exists(), "a checkpoint of another model was not refused");

    let whole = fs::read(file("whole.safetensors"))?;
    fs::write(file("short.safetensors"), &whole[..whole.len() / 2])?;
    for (bad, word) in [("short.safetensors", "checkpoint"), ("missing.safetensors", "missing.safetensors")] {
        let out = example(&["--steps", "1"], &file("none"), &["--resume", text(&file(bad))?]).output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(!out.status.success() && said.contains(word), "{bad} was not refused in words: {said}");
        ensure!(!file("none").exists(), "{bad} was refused, but something was saved");
    }
    let note = "all memories, records, resumed bit for bit, bad checkpoints refused";
    match run::which("kill") {
        Some(kill) => {
            interrupt(&kill, &file("interrupted.safetensors"))?;
            Ok(format!("{note}, interrupted"))
        }
        None => Ok(note.to_owned()),
    }
}

fn example(first: &[&str], save: &Path, more: &[&str]) -> Command {
    let mut command = run::command(program());
    command.args(first).args(SMALL).arg("--save").arg(save).args(more);
    command
}

/// The model of `examples/mixed.json`, resumed; a description with a mistake is refused with its place.
fn mixed(save: &Path, wrong: &Path) -> Result<()> {
    let config = run::root().join("examples/mixed.json");
    let described = |config: &Path, steps: &str| -> Result<Command> {
        let mut command = run::command(program());
        command.args(["--device", "cpu", "--segments", "2", "--batch", "1", "--steps", steps]);
        command.args(["--config", text(config)?]).arg("--save").arg(save);
        Ok(command)
    };
    run::output(&mut described(&config, "2")?)?;
    let said = run::output(described(&config, "3")?.args(["--resume", text(save)?]))?;
    ensure!(said.contains("--- sample ---") && said.contains("(step 3)"), "no sample or checkpoint:\n{said}");
    let right = fs::read_to_string(&config).context("no examples/mixed.json")?;
    fs::write(wrong, right.replacen("\"kind\": \"infini\"", "\"kind\": \"infinity\"", 1))?;
    let out = described(wrong, "2")?.output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success() && said.contains("layers[0].attention"), "not refused in words: {said}");
    Ok(())
}

fn program() -> PathBuf {
    run::target().join("debug/examples").join(format!("train_text{}", std::env::consts::EXE_SUFFIX))
}

fn job(first: &[&str], save: &Path, more: &[&str]) -> Result<()> {
    let said = run::output(&mut example(first, save, more))?;
    ensure!(said.contains("--- sample ---") && said.contains("checkpoint: "), "no sample or checkpoint:\n{said}");
    Ok(())
}

/// One object a line, with every key.
fn records(path: &Path, count: usize) -> Result<()> {
    let lines = fs::read_to_string(path).context("no records")?;
    ensure!(lines.lines().count() == count, "expected {count} records:\n{lines}");
    for (i, line) in lines.lines().enumerate() {
        let whole = line.starts_with('{') && line.ends_with('}') && line.contains(&format!("\"step\":{}", i + 1));
        if !whole || KEYS.iter().any(|key| !line.contains(&format!("\"{key}\":"))) {
            bail!("a record without one of {KEYS:?}: {line}");
        }
    }
    Ok(())
}

/// An interrupt saves what was learned and ends cleanly; the checkpoint goes on.
fn interrupt(kill: &Path, save: &Path) -> Result<()> {
    let records = save.with_extension("jsonl");
    let mut command = example(&["--steps", "1000000"], save, &["--json", text(&records)?]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start the job")?;
    let learned = || fs::read_to_string(&records).is_ok_and(|lines| lines.contains('\n'));
    for _ in 0..600 {
        if learned() || child.try_wait()?.is_some() {
            break;
        }
        sleep(Duration::from_millis(100));
    }
    let signalled = run::run(run::command(kill).arg("-INT").arg(child.id().to_string()));
    if signalled.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    signalled?;
    ensure!(status.success() && save.exists(), "an interrupt did not save: {status}");
    run::output(&mut example(&["--steps", "1"], save, &["--resume", text(save)?]))?;
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the folder's name is no text")
}
