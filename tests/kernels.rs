//! Every operation's samples on every executor against the f64 oracle.

mod common;

use wgrad::check::sample as check;
use wgrad::ops::samples;
use wgrad::{Device, Options};

fn compare(device: &Device) {
    let filter = std::env::var("WGRAD_SAMPLE").unwrap_or_default();
    let samples = samples::all().into_iter().filter(|s| s.name.contains(&filter));
    let outcomes = samples.map(|sample| {
        let worst = pollster::block_on(check::against_oracle(&sample, device, Options::default()));
        if let Ok(worst) = &worst {
            println!("{:<40} {worst:.1e}", sample.name);
        }
        (sample.name.to_string(), worst.err().map(|e| e.to_string()))
    });
    let failures = common::known::failures(device, outcomes);
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
