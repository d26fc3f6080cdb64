//! Trains a byte-level language model with a memory on text, saves it and prints a sample.
//!
//! `cargo run --release --example train_text -- --help`

/// A line on the standard output. A reader who leaves early (`| head`) must not cost the run.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($what)*);
    }};
}

mod args;
mod corpus;
mod job;
mod kinds;
mod model;
mod report;
mod training;

use args::Args;
use clap::Parser;

fn main() -> std::process::ExitCode {
    match job::run(&Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}
