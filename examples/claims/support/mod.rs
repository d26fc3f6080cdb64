//! What the programs of this folder share: options, mean and spread, tables, pictures, and their places in docs/claims.md.

pub mod numbers;
mod picture;
mod report;

use clap::Parser;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use wgrad::Result;

pub use numbers::over;
pub use picture::{Line, Picture, Point};
pub use report::Report;

/// One of the papers' claims, at a small size.
#[derive(Parser)]
pub struct Args {
    /// Seeds, from 0 on; models and seeds train side by side, on as many threads as RAYON_NUM_THREADS says
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// A few steps only: shows that the program runs, not what it claims
    #[arg(long)]
    pub quick: bool,
    /// Put the tables and pictures into docs/claims.md
    #[arg(long, conflicts_with = "quick")]
    pub write: bool,
}

impl Args {
    /// `full`, or less for a quick run.
    pub fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// What `run` measures of each arm with each seed.
    pub fn each<A: Sync, T: Send>(
        &self,
        arms: &[A],
        run: impl Fn(&A, u64) -> Result<T> + Send + Sync,
    ) -> Result<Vec<Vec<T>>> {
        let jobs: Vec<(&A, u64)> = arms.iter().flat_map(|arm| (0..self.seeds).map(move |seed| (arm, seed))).collect();
        let done: Vec<T> = jobs.into_par_iter().map(|(arm, seed)| run(arm, seed)).collect::<Result<_>>()?;
        let mut done = done.into_iter();
        Ok(arms.iter().map(|_| done.by_ref().take(self.seeds as usize).collect()).collect())
    }
}

/// Runs a program and says what went wrong.
pub fn program(name: &'static str, run: impl FnOnce(&mut Report) -> Result<()>) -> std::process::ExitCode {
    let mut report = Report::begin(name, Args::parse());
    match run(&mut report).and_then(|()| report.end()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}
