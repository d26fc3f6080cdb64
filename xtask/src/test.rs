//! `cargo xtask test`: every check, one after another, and a table of what ran where.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::lab::{Lab, Need};
use crate::run;
use crate::steps;
use crate::summary::{self, Done, Row, Stop};

#[derive(Args)]
pub struct TestArgs {
    /// Run only these steps
    steps: Vec<String>,
    /// Name the steps and stop
    #[arg(long)]
    list: bool,
    /// Train on several ranks over MPI, and run nothing else; installs Open MPI
    #[arg(long, conflicts_with = "steps")]
    mpi: bool,
    /// Take checkpoints of the four originals from PyTorch and back, and run nothing else; installs PyTorch
    #[arg(long, conflicts_with_all = ["steps", "mpi"])]
    pytorch: bool,
    /// Only check what is there; install nothing
    #[arg(long)]
    no_install: bool,
    /// Skip, instead of failing, what needs an adapter, browser or tool that is not here
    #[arg(long)]
    allow_missing: bool,
}

/// One check.
pub struct Step {
    pub name: &'static str,
    pub about: &'static str,
    pub needs: &'static [Need],
    pub run: fn(&Lab) -> Result<Done, Stop>,
}

/// Returns whether every step passed or was skipped.
pub fn run(args: &TestArgs) -> Result<bool> {
    let all = match (args.mpi, args.pytorch) {
        (true, _) => steps::MPI,
        (_, true) => steps::PYTORCH,
        _ => steps::ALL,
    };
    if args.list {
        for step in all {
            println!("{:16}  {}", step.name, step.about);
        }
        return Ok(true);
    }
    if let Some(unknown) = args.steps.iter().find(|name| all.iter().all(|step| step.name != **name)) {
        bail!("no step is called {unknown}: `cargo xtask test --list` names them");
    }
    let chosen = |step: &&Step| args.steps.is_empty() || args.steps.iter().any(|name| name == step.name);
    let chosen: Vec<&Step> = all.iter().filter(chosen).collect();

    let start = Instant::now();
    let lab = Lab::new(args.no_install, args.allow_missing);
    lab.prepare(chosen.iter().flat_map(|step| step.needs.iter().copied()));
    let rows: Vec<Row> = chosen.into_iter().map(|step| perform(step, &lab)).collect();
    Ok(summary::close(&rows, start.elapsed()))
}

fn perform(step: &Step, lab: &Lab) -> Row {
    println!("\n== {}: {}", step.name, step.about);
    let start = Instant::now();
    let mut result = (step.run)(lab);
    if let (Err(Stop::Missing(reason)), true) = (&result, lab.allow_missing) {
        result = Err(Stop::Skipped(format!("missing: {reason}")));
    }
    match &result {
        Ok(_) => {}
        Err(Stop::Failed(error)) => println!("{}: FAILED: {error:#}", step.name),
        Err(Stop::Missing(reason) | Stop::Skipped(reason)) => println!("{}: {reason}", step.name),
    }
    Row { step: step.name, time: start.elapsed(), result }
}

/// What a tool calls itself, for the table.
pub fn version(program: &str, args: &[&str]) -> String {
    run::first_line(program, args).unwrap_or_else(|| program.to_owned())
}
