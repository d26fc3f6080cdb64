//! Running other programs, with errors that say which one failed and how.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root folder.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// A command that starts in the workspace's root.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The command line as a person would type it.
pub fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs with the terminal's own output; an error names the command and its exit status.
pub fn run(command: &mut Command) -> Result<()> {
    let text = line(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{text}`"))?;
    if !status.success() {
        bail!("`{text}` ended with {status}");
    }
    Ok(())
}

/// Runs with its standard output shown and handed on line by line; an error names the command and its exit status. In
/// CI it ends after `minutes`.
pub fn watch(command: &mut Command, minutes: u32, mut each: impl FnMut(&str)) -> Result<()> {
    let text = line(command);
    let mut limited = limited(command, minutes);
    let command = limited.as_mut().unwrap_or(command);
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.with_context(|| format!("cannot start `{text}`"))?;
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).split(b'\n')) {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        each(&line);
    }
    let status = child.wait()?;
    if limited.is_some() && status.code() == Some(124) {
        bail!("`{text}` had not ended after {minutes} minutes");
    }
    if !status.success() {
        bail!("`{text}` ended with {status}");
    }
    Ok(())
}

/// The same command, ended after `minutes` with everything it started. Only where nobody watches: the `timeout` program
/// takes it out of the terminal's reach.
fn limited(command: &Command, minutes: u32) -> Option<Command> {
    if !cfg!(target_os = "linux") || env::var_os("CI").is_none() {
        return None;
    }
    let mut limited = Command::new(which("timeout")?);
    limited.arg("--kill-after=10s").arg(format!("{minutes}m")).arg(command.get_program()).args(command.get_args());
    limited.current_dir(command.get_current_dir().unwrap_or(Path::new(".")));
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(name, value);
        }
    }
    Some(limited)
}

/// Runs quietly and returns what was printed on standard output; on failure the error carries both streams' last lines.
pub fn output(command: &mut Command) -> Result<String> {
    let text = line(command);
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{text}`"))?;
    if !out.status.success() {
        bail!("`{text}` ended with {}:\n{}", out.status, tail(&out, 15));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The first line a program prints, or `None` when it cannot be run.
pub fn first_line(program: impl AsRef<OsStr>, args: &[&str]) -> Option<String> {
    let text = output(command(program).args(args)).ok()?;
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

/// Where a program lies on the search path.
pub fn which(program: &str) -> Option<PathBuf> {
    let paths = env::var_os("PATH")?;
    env::split_paths(&paths)
        .flat_map(|folder| [folder.join(program), folder.join(format!("{program}{}", env::consts::EXE_SUFFIX))])
        .find(|path| path.is_file())
}

fn tail(out: &Output, lines: usize) -> String {
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&out.stderr));
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
