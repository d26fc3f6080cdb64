//! Golden fixtures: outputs and all gradients of the reference systems, on every executor.
//!
//! Reads `tests/fixtures/<system>/*.safetensors` and the folders listed in `WGRAD_FIXTURES` (colon separated; each
//! holds such system folders or files directly). `WGRAD_CASE=part` keeps the cases whose name contains the part. A
//! case over its tolerance fails, and so does a module that no table below knows.

mod common;

/// One file per system. A module is one function and one line in its file's table.
mod parity {
    pub mod build;
    pub mod compare;
    pub mod fixture;
    pub mod primitives;
}

use parity::compare::{Outcome, judge};
use parity::fixture::{Case, load_all};
use wgrad::{Device, Result};

/// Builds a case's module, runs it on a device and returns what it computed.
pub type Module = fn(&Case, &Device) -> Result<Outcome>;

/// Modules by the fixtures' metadata `system` and `module`.
pub static MODULES: &[&[(&str, &str, Module)]] = &[parity::primitives::MODULES];

fn module(case: &Case) -> Option<Module> {
    let mut all = MODULES.iter().flat_map(|table| table.iter());
    all.find(|(system, module, _)| *system == case.system && *module == case.module)
        .map(|(_, _, f)| *f)
}

/// Runs all cases; twice the CPU's tolerance is allowed on a GPU.
fn check(device: &Device, looseness: f64) {
    let filter = std::env::var("WGRAD_CASE").unwrap_or_default();
    let cases = load_all().unwrap_or_else(|e| panic!("{e}"));
    assert!(!cases.is_empty(), "no fixtures in tests/fixtures");
    let (mut count, mut failures) = (0, Vec::new());
    for case in cases.iter().filter(|c| c.name.contains(&filter)) {
        count += 1;
        let verdict = match module(case) {
            None => Err(format!("unknown module {} of {}", case.module, case.system)),
            Some(f) => f(case, device)
                .map_err(|e| e.to_string())
                .and_then(|outcome| judge(case, &outcome, looseness)),
        };
        match verdict {
            Ok(line) => println!("ok   {:<36} {line}", case.name),
            Err(line) => {
                println!("FAIL {:<36} {line}", case.name);
                failures.push(format!("{}: {line}", case.path.display()));
            }
        }
    }
    println!("{count} cases on {device}");
    assert!(
        failures.is_empty(),
        "{} of {count} cases fail on {device}:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn cpu_agrees_with_the_references() {
    check(&Device::cpu(), 1.0);
}

#[test]
fn gpu_agrees_with_the_references() {
    if let Some(device) = common::gpu() {
        check(device, 2.0);
    }
}
