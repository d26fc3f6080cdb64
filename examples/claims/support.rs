//! What the programs of this folder share: options, mean and spread, tables, pictures, and their places in docs/claims.md.

use clap::Parser;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::fmt::Write;
use std::time::Instant;
use wgrad::{Error, Result};

#[path = "picture.rs"]
mod picture;

pub use picture::{Line, Picture};

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
    let mut report = Report {
        name,
        args: Args::parse(),
        start: Instant::now(),
        load: load(),
        text: String::new(),
        pictures: vec![],
    };
    match run(&mut report).and_then(|()| report.end()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Mean and standard deviation over the seeds.
pub fn mean(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (mean, (squares / values.len().saturating_sub(1).max(1) as f64).sqrt())
}

/// The same as text, with so many digits after the point.
pub fn spread(values: &[f64], digits: usize) -> String {
    let (mean, deviation) = mean(values);
    format!("{mean:.digits$} ± {deviation:.digits$}")
}

/// Means and spreads of what `of` takes from the runs of all seeds.
pub fn over<T>(runs: &[T], digits: usize, of: impl Fn(&T) -> f64) -> String {
    spread(&runs.iter().map(of).collect::<Vec<_>>(), digits)
}

/// Processes that wanted to run in the last minute, where the system says so.
fn load() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next().map(str::to_owned)
}

/// What a program found: printed as it goes, and kept for docs/claims.md.
pub struct Report {
    name: &'static str,
    pub args: Args,
    start: Instant,
    load: Option<String>,
    text: String,
    pictures: Vec<(String, String)>,
}

impl Report {
    /// A paragraph.
    pub fn say(&mut self, text: &str) {
        println!("{text}\n");
        let _ = writeln!(self.text, "{text}\n");
    }

    /// A table, the first column of which names its rows.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        let rule = (0..head.len()).map(|i| if i == 0 { "---".to_owned() } else { "---:".to_owned() }).collect();
        let lines =
            [&head, &rule].into_iter().chain(rows).map(|cells: &Vec<String>| format!("| {} |", cells.join(" | ")));
        self.say(&lines.collect::<Vec<_>>().join("\n"));
    }

    /// A picture, as `docs/claims/{name}.svg`.
    pub fn picture(&mut self, name: &str, picture: &Picture<'_>) -> Result<()> {
        let failed = |e: String| Error::Io { path: format!("{name}.svg"), message: e };
        let svg = picture.draw().map_err(|e| failed(e.to_string()))?;
        let _ = writeln!(self.text, "![{}](claims/{name}.svg)\n", picture.title);
        self.pictures.push((format!("claims/{name}.svg"), svg));
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let load = self.load.take().map_or(String::new(), |load| format!(", load {load} when it began"));
        let seconds = self.start.elapsed().as_secs_f64();
        let (name, seeds) = (self.name, self.args.seeds);
        self.say(&format!(
            "`cargo run --release --example claims_{name}`: {seeds} seeds, mean ± standard deviation; {seconds:.0} s on the \
             CPU executor, {cores} cores{load}."
        ));
        if !self.args.write {
            return Ok(());
        }
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let page = docs.join("claims.md");
        let failed = |e: std::io::Error| Error::Io { path: page.display().to_string(), message: e.to_string() };
        let whole = std::fs::read_to_string(&page).map_err(failed)?;
        let marks = [format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n")];
        let missing = || failed(std::io::Error::other(format!("no {} in it", marks.concat().replace('\n', " "))));
        let (before, rest) = whole.split_once(&marks[0]).ok_or_else(missing)?;
        let (_, after) = rest.split_once(&marks[1]).ok_or_else(missing)?;
        let text = self.text.trim_end();
        let new = format!("{before}{}\n{text}\n\n{}{after}", marks[0], marks[1]);
        std::fs::write(&page, new).map_err(failed)?;
        self.pictures.iter().try_for_each(|(file, svg)| std::fs::write(docs.join(file), svg)).map_err(failed)
    }
}
