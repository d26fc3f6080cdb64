//! The project's chores: `cargo xtask setup | demo | test | web`.

mod apt;
mod find;
mod run;
mod setup;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "wgrad's chores", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need (Vulkan loader, software Vulkan driver, Chromium, Node) and say what was found
    Setup(SetupArgs),
}

#[derive(Args, Clone, Copy)]
struct SetupArgs {
    /// Only check; install nothing
    #[arg(long)]
    no_install: bool,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Setup(args) => setup::all(args.no_install),
    }
}
