//! The project's chores: `cargo xtask demo | test | bench | web | setup | fuzz | coverage | mutants | miri | deny | new-op |
//! options | adapters`.

mod adapters;
mod apt;
mod bench;
mod claims;
mod counts;
mod demo;
mod dependencies;
mod examples;
mod find;
mod floors;
mod fuzz;
mod guide;
mod job;
mod lab;
mod new_op;
mod node;
mod options;
mod package;
mod pytorch;
mod run;
mod setup;
mod steps;
mod summary;
mod test;
mod tools;
mod validation;
mod web;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "wgrad's chores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train the example model with its defaults
    Demo(demo::DemoArgs),
    /// Run every check and say where each one ran
    Test(test::TestArgs),
    /// Measure beside other libraries
    Bench(bench::BenchArgs),
    /// Build the npm package and the page
    Web(SetupArgs),
    /// Install what the tests need, and say what was found
    Setup {
        #[command(flatten)]
        args: SetupArgs,
        /// Open MPI too, for `test --mpi`
        #[arg(long)]
        mpi: bool,
    },
    /// Try random programs and mutated files until the time is over; failures are kept as tests
    Fuzz(fuzz::FuzzArgs),
    /// Measure which lines the tests run (installs cargo-llvm-cov)
    Coverage(tools::ToolArgs),
    /// Try whether the tests see changes of the code (installs cargo-mutants)
    Mutants(tools::MutantsArgs),
    /// Interpret the unsafe block of matrix products (installs Miri)
    Miri(tools::ToolArgs),
    /// Check licences and sources of the dependencies (installs cargo-deny)
    Deny(tools::DenyArgs),
    /// Begin an operation: kernel, Rust file with samples, and its lines in the lists
    NewOp(new_op::NewOpArgs),
    /// Write the guide's page of all options of the models, from their documentation
    Options,
    /// List the Vulkan adapters: kind, name, driver
    Adapters {
        /// Do something that a validation layer must object to
        #[arg(long, hide = true)]
        mistake: bool,
    },
}

#[derive(Args)]
struct SetupArgs {
    /// Only check what is there; install nothing
    #[arg(long)]
    no_install: bool,
}

fn main() -> ExitCode {
    match chore(&Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `Ok(false)`: something failed and has said so.
fn chore(command: &Command) -> Result<bool> {
    match command {
        Command::Demo(args) => demo::run(args)?,
        Command::Test(args) => return test::run(args),
        Command::Bench(args) => bench::run(args)?,
        Command::Web(args) => {
            let mut setup = setup::Setup::new(args.no_install);
            setup.target("wasm32-unknown-unknown")?;
            let node = setup.node()?;
            package::build(&node, args.no_install)?;
            web::build(&node, args.no_install)?;
        }
        Command::Setup { args, mpi } => setup::all(args.no_install, *mpi)?,
        Command::Fuzz(args) => fuzz::run(args)?,
        Command::Coverage(args) => tools::coverage(args)?,
        Command::Mutants(args) => tools::mutants(args)?,
        Command::Miri(args) => tools::miri(args)?,
        Command::Deny(args) => tools::deny(args)?,
        Command::Adapters { mistake: true } => adapters::mistake()?,
        Command::Adapters { mistake: false } => adapters::print()?,
        Command::NewOp(args) => new_op::run(args)?,
        Command::Options => options::write()?,
    }
    Ok(true)
}
