//! Node and npm, for the page and the browser tests.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;

/// What the page's build tool asks for.
pub const OLDEST: (u32, u32) = (20, 19);
/// Taken from npm where the system's own Node is older.
const NEWER: &str = "22";

/// A Node that is new enough.
pub struct Node {
    /// A folder to be searched before the system's.
    bin: Option<PathBuf>,
    version: String,
}

impl Node {
    /// The system's Node, or the one that an earlier run fetched.
    pub fn find() -> Result<Self> {
        let fetched = package().map(|(folder, _)| folder.join("bin")).filter(|bin| bin.join("node").is_file());
        let bin = if Self::check(None).is_ok() { None } else { fetched };
        let version = Self::check(bin.as_deref())?;
        Ok(Self { bin, version })
    }

    /// Fetches a newer Node through the system's npm into the build folder.
    pub fn fetch() -> Result<()> {
        let (folder, name) = package().context("no prebuilt Node for this system")?;
        let prefix = folder.ancestors().nth(2).unwrap_or(&folder).to_path_buf();
        std::fs::create_dir_all(&prefix)?;
        let mut npm = run::command(npm());
        npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--prefix"]).arg(prefix);
        run::output(npm.arg(format!("{name}@{NEWER}"))).map(drop)
    }

    /// A program of Node's, started in the page's folder.
    pub fn command(&self, program: &str) -> Command {
        let mut command = on_path(self.bin.as_deref(), program);
        command.current_dir(run::root().join("web"));
        command
    }

    /// Where Node itself lies.
    pub fn program(&self) -> String {
        self.bin.as_ref().map_or_else(|| "node".into(), |bin| bin.join("node").to_string_lossy().into_owned())
    }

    pub fn npm(&self) -> Command {
        self.command(npm())
    }

    /// Installs Playwright's own Chromium and, as root or with sudo, the libraries it needs.
    pub fn playwright_chromium(&self) -> Result<()> {
        let mut npm = self.npm();
        run::output(npm.args(["exec", "--", "playwright", "install", "--with-deps", "chromium"])).map(drop)
    }

    pub fn place(&self) -> String {
        format!("Node {}", self.version)
    }

    /// The version found, when it is new enough and npm is there too.
    fn check(bin: Option<&Path>) -> Result<String> {
        let version = run::output(on_path(bin, "node").arg("--version")).context("no Node")?;
        let version = version.trim().trim_start_matches('v').to_owned();
        let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < OLDEST {
            bail!("Node {version} is older than {}.{}", OLDEST.0, OLDEST.1);
        }
        run::output(on_path(bin, npm()).arg("--version")).context("no npm")?;
        Ok(version)
    }
}

fn npm() -> &'static str {
    if cfg!(windows) { "npm.cmd" } else { "npm" }
}

/// The npm package that carries Node's binary for this system, and where it is unpacked.
fn package() -> Option<(PathBuf, String)> {
    let arch = match env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        _ => return None,
    };
    let name = format!("node-{}-{arch}", env::consts::OS);
    cfg!(target_os = "linux").then(|| (run::target().join("node/node_modules").join(&name), name))
}

fn on_path(bin: Option<&Path>, program: &str) -> Command {
    let mut command = run::command(program);
    if let Some(bin) = bin {
        let paths = env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin.to_path_buf()).chain(env::split_paths(&paths));
        if let Ok(paths) = env::join_paths(paths) {
            command.env("PATH", paths);
        }
    }
    command
}
