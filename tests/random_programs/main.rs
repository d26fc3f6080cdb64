//! Random programs of all operations agree on all executors, with every part of the planner switched on and off: values,
//! gradients, and states after two runs. `cargo xtask fuzz` tries new ones for as long as it is told to; what it finds
//! goes, shrunk, into `kept/`, where every later run tries it again.

mod arrange;
mod census;
#[path = "../common/mod.rs"]
mod common;
mod elementwise;
mod ends;
mod grow;
mod layers;
mod memory;
mod ops;
mod program;
mod rows;
mod run;

use grow::Aim;
use program::Program;
use run::{Checker, Verdict};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wgrad::{Device, Graph};

/// Programs of every run of the tests.
const EVERY: std::ops::Range<u64> = 0..60;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Checks one program; a failure is shrunk and described.
fn failure(checker: &Checker, program: Program) -> Option<(Program, String)> {
    let Verdict::Differs(first) = checker.check(&program) else { return None };
    println!("seed {}: {first}; shrinking", program.seed);
    let limit = Duration::from_secs(number("WGRAD_FUZZ_SHRINK").unwrap_or(60));
    let small = program.shrink(limit, |p| matches!(checker.check(p), Verdict::Differs(_)));
    let Verdict::Differs(message) = checker.check(&small) else { return None };
    println!("{message}\n{small}");
    let graph = Graph::new();
    let built = catch_unwind(AssertUnwindSafe(|| drop(grow::Grower::new(&graph, &small, Aim::Run))));
    println!("{}", if built.is_ok() { graph.to_string() } else { "building panics".to_owned() });
    Some((small, message))
}

#[test]
fn random_programs_agree() {
    let checker = Checker::new(common::gpu().cloned());
    let outcomes = EVERY.map(|seed| {
        let failure = failure(&checker, Program::random(seed));
        (format!("seed {seed}"), failure.map(|(program, message)| format!("# {message}\n{program}")))
    });
    let place = common::gpu().map_or(Device::cpu(), Device::clone);
    let failures = common::known::failures(&place, outcomes);
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

fn kept() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/random_programs/kept")
}

/// Programs that once failed.
#[test]
fn kept_programs_agree() {
    let checker = Checker::new(common::gpu().cloned());
    let mut failures = Vec::new();
    for entry in std::fs::read_dir(kept()).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let program = Program::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
        assert_eq!(Program::parse(&program.to_string()).map(|p| p.to_string()), Ok(program.to_string()));
        if let Verdict::Differs(message) = checker.check(&program) {
            failures.push(format!("{}: {message}", entry.path().display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// New programs for `WGRAD_FUZZ_MINUTES`, from seed `WGRAD_FUZZ_SEED` on: `cargo xtask fuzz`.
#[test]
#[ignore = "runs as long as it is told to"]
fn fuzz() {
    let end = Instant::now() + Duration::from_secs(60 * number("WGRAD_FUZZ_MINUTES").unwrap_or(1));
    let first = number("WGRAD_FUZZ_SEED").unwrap_or(1_000_000);
    let checker = Checker::new(common::gpu().cloned());
    let (mut tried, mut unfit, mut failed) = (0u64, 0u64, 0u64);
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in first.. {
        if Instant::now() > end {
            break;
        }
        let program = Program::random(seed);
        tried += 1;
        let graph = Graph::new();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            grow::Grower::new(&graph, &program, Aim::Run).used
        }));
        caught.into_iter().flatten().for_each(|name| *used.entry(name).or_default() += 1);
        if tried.is_multiple_of(50) {
            println!("seed {seed}: {tried} programs, {unfit} without finite results, {failed} failures");
        }
        match checker.check(&program) {
            Verdict::Agrees => {}
            Verdict::Unfit => unfit += 1,
            Verdict::Differs(_) => {
                failed += 1;
                if let Some((small, message)) = failure(&checker, program) {
                    let path = kept().join(format!("seed-{seed}.txt"));
                    let written = std::fs::write(&path, format!("# {}\n{small}", message.replace('\n', "\n# ")));
                    println!("{}: {written:?}", path.display());
                }
            }
        }
    }
    println!("{tried} programs from seed {first} on, {unfit} without finite results, {failed} failures");
    println!("uses of operations: {used:?}");
    assert_eq!(failed, 0, "programs that failed are in {}", kept().display());
}
