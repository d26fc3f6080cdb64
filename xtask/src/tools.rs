//! Chores that need tools of their own, which take minutes to install and run: no part of `cargo xtask test`.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::lab::Lab;
use crate::run;

#[derive(Args)]
pub struct ToolArgs {
    /// Only check what is there; install nothing
    #[arg(long)]
    no_install: bool,
}

#[derive(Args)]
pub struct DenyArgs {
    #[command(flatten)]
    tool: ToolArgs,
    /// Also look for known weaknesses, in a database that is fetched for it
    #[arg(long)]
    advisories: bool,
}

#[derive(Args)]
pub struct MutantsArgs {
    #[command(flatten)]
    tool: ToolArgs,
    /// Passed on: --count, --seed, --only, --list
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Not counted: what only a browser runs, and the page's training run.
const NOT_COUNTED: &str = r"/src/(web|demo)/|/src/device/browser\.rs$|/xtask/";
/// Percent of lines.
const WANTED: &str = "90";

/// `cargo xtask coverage`: which lines the crate's tests run, on the CPU executor and on the adapter of the tests.
pub fn coverage(args: &ToolArgs) -> Result<()> {
    tool("cargo-llvm-cov", args.no_install)?;
    let lab = Lab::new(args.no_install, false);
    let gpu = lab.gpu()?;
    println!("on {}", gpu.place());
    if !args.no_install {
        run::output(run::command("rustup").args(["component", "add", "llvm-tools"]))?;
    }
    let mut tests = run::cargo();
    tests.args(["llvm-cov", "test", "--no-report", "--no-fail-fast", "--package", "wgrad", "--lib", "--tests"]);
    gpu.apply(&mut tests);
    run::run(&mut tests)?;
    let mut report = run::cargo();
    // Tests that kill processes leave halves of profiles.
    report.args(["llvm-cov", "report", "--failure-mode", "all", "--ignore-filename-regex", NOT_COUNTED]);
    report.args(["--fail-under-lines", WANTED]);
    run::run(&mut report)
}

/// `cargo xtask deny`: licences, sources and doubles of everything that the crate builds on.
pub fn deny(args: &DenyArgs) -> Result<()> {
    tool("cargo-deny", args.tool.no_install)?;
    run::run(run::cargo().args(["deny", "check", "licenses", "bans", "sources"]))?;
    if !args.advisories {
        println!("known weaknesses were not looked up: --advisories fetches the RustSec database");
        return Ok(());
    }
    run::run(run::cargo().args(["deny", "check", "advisories"])).context(
        "licences, bans and sources are in order, known weaknesses are not: one was found, or, if cargo-deny could not fetch \
         the RustSec database, NONE WERE LOOKED UP",
    )
}

/// `cargo xtask miri`: the unsafe block of matrix products, interpreted. What Miri cannot run, the processor's own vectors, `gemm` leaves alone
/// there.
pub fn miri(args: &ToolArgs) -> Result<()> {
    if !args.no_install {
        let parts = ["toolchain", "install", "nightly", "--profile", "minimal", "-c", "miri", "-c", "rust-src"];
        run::output(run::command("rustup").args(parts))?;
    }
    let tests = ["miri", "test", "--package", "wgrad", "--lib", "kernels::gemm"];
    run::run(run::command("rustup").args(["run", "nightly", "cargo"]).args(tests))
}

/// `cargo xtask mutants`: see `bin/mutants`.
pub fn mutants(args: &MutantsArgs) -> Result<()> {
    tool("cargo-mutants", args.tool.no_install)?;
    let mut cargo = run::cargo();
    cargo.args(["run", "--quiet", "--package", "xtask", "--features", "mutants", "--bin", "mutants", "--"]);
    run::run(cargo.args(&args.rest))
}

/// A cargo subcommand, installed from its sources where it is missing.
fn tool(name: &str, no_install: bool) -> Result<()> {
    let verb = name.strip_prefix("cargo-").unwrap_or(name);
    let version = || run::first_line(run::cargo().get_program(), &[verb, "--version"]);
    if version().is_none() {
        if no_install {
            bail!("{name} is not installed, and --no-install was given");
        }
        println!("setup: {name}: cargo install {name} --locked (some minutes)");
        run::output(run::cargo().args(["install", "--locked", name]))?;
    }
    println!("setup: {}", version().with_context(|| format!("{name} does not start"))?);
    Ok(())
}
