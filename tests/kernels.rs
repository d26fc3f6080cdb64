//! Every operation's samples on every executor against the f64 oracle.

mod common;

use wgrad::ops::{check, samples};
use wgrad::{Device, Options};

fn compare(device: &Device) {
    let mut failures = Vec::new();
    let filter = std::env::var("WGRAD_SAMPLE").unwrap_or_default();
    for sample in samples::all().into_iter().filter(|s| s.name.contains(&filter)) {
        match pollster::block_on(check::against_oracle(&sample, device, Options::default())) {
            Ok(worst) => println!("{:<40} {worst:.1e}", sample.name),
            Err(e) => failures.push(e.to_string()),
        }
    }
    assert!(failures.is_empty(), "on {device}:\n{}", failures.join("\n"));
}

#[test]
fn cpu_agrees_with_the_oracle() {
    compare(&Device::cpu());
}

#[test]
fn gpu_agrees_with_the_oracle() {
    if let Some(device) = common::gpu() {
        compare(device);
    }
}
