//! The table that closes a test run.

use std::time::Duration;

use anyhow::{Error, anyhow};

/// What a step that went well has to say.
pub struct Done {
    /// The compiler, adapter or browser it ran on, with its version.
    pub place: String,
    pub note: String,
}

/// Why a step did not pass.
pub enum Stop {
    Failed(Error),
    /// An adapter, browser or tool is not on this machine: a failure unless the caller allows it.
    Missing(String),
    /// Not possible here, and allowed to be.
    Skipped(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Failed(error) => error,
            Stop::Missing(reason) | Stop::Skipped(reason) => anyhow!(reason),
        }
    }
}

/// One line of the table.
pub struct Row {
    pub step: &'static str,
    pub time: Duration,
    pub result: Result<Done, Stop>,
}

impl Row {
    fn verdict(&self) -> &'static str {
        match &self.result {
            Ok(_) => "passed",
            Err(Stop::Failed(_) | Stop::Missing(_)) => "FAILED",
            Err(Stop::Skipped(_)) => "skipped",
        }
    }

    fn what(&self) -> String {
        match &self.result {
            Ok(done) if done.note.is_empty() => done.place.clone(),
            Ok(done) => format!("{}: {}", done.place, done.note),
            Err(Stop::Failed(error)) => format!("{error:#}").lines().next().unwrap_or_default().to_owned(),
            Err(Stop::Missing(reason)) => format!("missing: {reason} (--allow-missing skips this)"),
            Err(Stop::Skipped(reason)) => reason.clone(),
        }
    }
}

/// Prints the table and the closing count; returns whether nothing failed.
pub fn close(rows: &[Row], total: Duration) -> bool {
    let width = rows.iter().map(|row| row.step.len()).max().unwrap_or(0);
    println!("\n{:width$}  {:7}  {:>7}  where, and what was counted or skipped", "step", "result", "time");
    for row in rows {
        println!("{:width$}  {:7}  {:>6.1}s  {}", row.step, row.verdict(), row.time.as_secs_f32(), row.what());
    }
    println!("{:width$}  {:7}  {:>6.1}s", "total", "", total.as_secs_f32());
    let count = |verdict| rows.iter().filter(|row| row.verdict() == verdict).count();
    let failed = count("FAILED");
    println!("\n{} passed, {failed} failed, {} skipped", count("passed"), count("skipped"));
    failed == 0
}
