//! `cargo xtask demo`: the main job, with its defaults.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::run;
use crate::setup::Setup;

#[derive(Args)]
pub struct DemoArgs {
    /// Only check what is there; install nothing
    #[arg(long)]
    no_install: bool,
    /// Handed on to the example
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Trains the example. It needs nothing but Rust: without a GPU it runs on the CPU executor.
pub fn run(args: &DemoArgs) -> Result<()> {
    let hardware = ["/dev/dri/renderD128", "/dev/nvidia0", "/dev/dxg"].iter().any(|path| Path::new(path).exists());
    if cfg!(target_os = "linux") && hardware {
        // Without the loader the GPU stays unseen, and the CPU executor does the work.
        let _ = Setup::new(args.no_install).loader();
    } else if cfg!(target_os = "linux") {
        println!("setup: nothing to install: no GPU here, so the CPU executor runs");
    }
    let mut cargo = run::cargo();
    cargo.args(["run", "--release", "--example", "train_text"]);
    if !args.rest.is_empty() {
        cargo.arg("--").args(&args.rest);
    }
    // An interrupt is for the example, which saves and ends; this program waits for it.
    let _ = ctrlc::set_handler(|| {});
    run::run(&mut cargo)
}
