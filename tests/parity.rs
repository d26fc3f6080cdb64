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
    pub mod conditional;
    pub mod conditional_options;
    pub mod fixture;
    pub mod infini;
    pub mod local;
    pub mod primitives;
    pub mod product_key;
    pub mod recurrent;
}

use parity::compare::{Outcome, judge, matching, permute};
use parity::fixture::{Case, load_all};
use wgrad::{Device, Result, Tensor};

/// Builds a case's module, runs it on a device and returns what it computed.
pub type Module = fn(&Case, &Device) -> Result<Outcome>;

/// Modules by the fixtures' metadata `system` and `module`.
pub static MODULES: &[&[(&str, &str, Module)]] = &[
    parity::primitives::MODULES,
    parity::infini::MODULES,
    parity::conditional::MODULES,
    parity::local::MODULES,
    parity::recurrent::MODULES,
    parity::product_key::MODULES,
];

fn module(case: &Case) -> Option<Module> {
    let mut all = MODULES.iter().flat_map(|table| table.iter());
    all.find(|(system, module, _)| *system == case.system && *module == case.module).map(|(_, _, f)| *f)
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
            Some(f) => f(case, device).map_err(|e| e.to_string()).and_then(|outcome| judge(case, &outcome, looseness)),
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
    assert!(failures.is_empty(), "{} of {count} cases fail on {device}:\n{}", failures.len(), failures.join("\n"));
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

/// The harness itself must refuse what is wrong.
#[test]
fn wrong_results_are_refused() -> Result<()> {
    let cases = load_all()?;
    let case = cases.iter().find(|c| c.name == "prim_norms");
    let case = case.expect("the fixture of the norms");
    let mut exact = Outcome::default();
    for (key, tensor) in &case.tensors {
        if key.starts_with("output.") || key.starts_with("grad.") {
            exact.add(key, tensor.clone());
        }
    }
    assert!(judge(case, &exact, 1.0).is_ok());
    let key = "grad.input.g";
    let want = case.tensor(key)?;
    for (i, v) in [(0, 1e-2), (17, f32::NAN)] {
        let mut data = want.floats().to_vec();
        data[i] += v;
        exact.add(key, Tensor::f32(want.shape(), data)?);
        assert!(judge(case, &exact, 2.0).is_err());
    }
    exact.tensors.remove(key);
    assert!(judge(case, &exact, 2.0).is_err());
    exact.add(key, want.clone());
    exact.add("grad.param.other", want.clone());
    assert!(judge(case, &exact, 2.0).is_err());
    Ok(())
}

/// Selections in any order: companions follow their numbers.
#[test]
fn sets_are_put_into_our_order() -> Result<()> {
    let theirs = Tensor::u32([2, 3], vec![4, 9, 2, 1, 0, 5])?;
    let ours = Tensor::u32([2, 3], vec![2, 4, 9, 5, 1, 0])?;
    let values = Tensor::f32([2, 3], vec![40., 90., 20., 10., 0., 50.])?;
    let moved = permute(&values, &matching(&ours, &theirs), &ours)?;
    assert_eq!(moved.floats(), [20., 40., 90., 50., 10., 0.]);
    Ok(())
}
