//! How many tests ran, read from what the test runners print.

use std::process::Command;

use crate::run;
use crate::summary::Stop;

/// The most minutes that one test command may take in CI: a shader that never ends must not hide the summary.
const LIMIT: u32 = 20;

/// Test results added up over the programs of one step.
#[derive(Debug, Default, PartialEq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    pub ignored: usize,
    /// What a browser test said about its adapter.
    pub adapter: Option<String>,
}

impl Counts {
    /// Reads one line: libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; …`, Playwright's `3 passed (1.2s)`, or
    /// a test's own `adapter: NAME`.
    pub fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(adapter) = line.strip_prefix("adapter: ") {
            self.adapter = Some(adapter.to_owned());
        } else if let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) {
            counts.split("; ").for_each(|part| self.add(part));
        } else if line.split_whitespace().count() <= 3 {
            self.add(line);
        }
    }

    /// Runs a test runner and reads what it prints. A run in which no test passed is no success.
    pub fn watch(&mut self, command: &mut Command) -> Result<(), Stop> {
        self.watch_also(command, |_| {})
    }

    /// The same, with every line also handed to `each`.
    pub fn watch_also(&mut self, command: &mut Command, mut each: impl FnMut(&str)) -> Result<(), Stop> {
        let ended = run::watch(command, LIMIT, |line| {
            self.read(line);
            each(line);
        });
        ended.map_err(|error| match self.failed {
            0 => error,
            failed => error.context(format!("{failed} failed, {} passed", self.passed)),
        })?;
        self.note().map(drop)
    }

    /// For the summary.
    pub fn note(&self) -> Result<String, Stop> {
        if self.passed == 0 {
            return Err(Stop::Failed(anyhow::anyhow!("no test ran")));
        }
        let ignored = if self.ignored > 0 { format!(", {} ignored", self.ignored) } else { String::new() };
        let plural = if self.passed == 1 { "" } else { "s" };
        Ok(format!("{} test{plural}{ignored}", self.passed))
    }

    fn add(&mut self, part: &str) {
        let mut words = part.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<usize>().ok()) else { return };
        match words.next() {
            Some("passed") => self.passed += number,
            Some("failed") => self.failed += number,
            Some("ignored" | "skipped") => self.ignored += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_libtest_and_playwright() {
        let mut counts = Counts::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.0s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s",
            "  5 passed (1.2s)",
            "  1 skipped",
            "adapter: google swiftshader",
        ] {
            counts.read(line);
        }
        let adapter = Some("google swiftshader".to_owned());
        assert_eq!(counts, Counts { passed: 9, failed: 2, ignored: 2, adapter });
    }

    #[test]
    fn an_empty_run_is_a_failure() {
        assert!(Counts::default().note().is_err());
    }
}
