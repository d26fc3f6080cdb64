//! Devices the tests run on.
#![allow(dead_code)]

pub mod modules;
pub mod ops;

use std::sync::OnceLock;
use wgrad::{Device, GpuOptions};

fn set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|v| v == "1")
}

/// How the tests ask for an adapter: `WGRAD_TEST_ADAPTER` is part of its name, `WGRAD_PORTABLE_LIMITS=1` asks for the
/// limits that every WebGPU device has.
pub fn options() -> GpuOptions {
    GpuOptions {
        adapter: std::env::var("WGRAD_TEST_ADAPTER").ok(),
        software: true,
        portable_limits: set("WGRAD_PORTABLE_LIMITS"),
        hardware_kernels: set("WGRAD_HARDWARE_KERNELS"),
        ..Default::default()
    }
}

/// A device of one test's own: to count what is made on it, or to lose it.
pub fn fresh(options: GpuOptions) -> Option<Device> {
    match Device::gpu_blocking(options) {
        Ok(device) => Some(device),
        Err(e) if set("WGRAD_ALLOW_MISSING") => {
            println!("SKIPPED on the GPU: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// The GPU adapter of the tests: the one `WGRAD_TEST_ADAPTER` names, else any. Without one the test fails, unless
/// `WGRAD_ALLOW_MISSING=1`; then it says so and checks the CPU executor only.
/// `WGRAD_HARDWARE_KERNELS=1` runs the kernel variants meant for hardware on a software driver.
pub fn gpu() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    DEVICE
        .get_or_init(|| {
            let device = fresh(options());
            device.iter().for_each(|d| println!("GPU: {d}"));
            device
        })
        .as_ref()
}

/// Buffers, bytes of them, bind groups and pipelines made on a GPU so far, to see that there are no more; on the CPU nothing.
pub fn made(device: &Device) -> [u64; 4] {
    let [buffers, bytes, groups, pipelines, _submits] =
        device.as_gpu().map(|gpu| gpu.counters.snapshot()).unwrap_or_default();
    [buffers, bytes, groups, pipelines]
}

/// The CPU executor, then the GPU.
pub fn devices() -> Vec<Device> {
    let mut all = vec![Device::cpu()];
    all.extend(gpu().cloned());
    all
}

/// Messages one a line, without the line numbers of the tests, for a snapshot.
pub fn listed(messages: &[String]) -> String {
    let mut text = String::new();
    for message in messages {
        let mut rest = message.as_str();
        while let Some(at) = rest.find(".rs:") {
            let (line, after) = rest.split_at(at + 4);
            text.push_str(line);
            text.push_str("LINE");
            rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        text.push_str(rest);
        text.push('\n');
    }
    text
}
