//! Devices the tests run on.
#![allow(dead_code)]

use std::sync::OnceLock;
use wgrad::{Device, GpuOptions};

fn set(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|v| v == "1")
}

/// The GPU adapter of the tests: the one `WGRAD_TEST_ADAPTER` names, else any. Without one the test fails, unless
/// `WGRAD_ALLOW_MISSING=1`; then it says so and checks the CPU executor only.
/// `WGRAD_HARDWARE_KERNELS=1` runs the kernel variants meant for hardware on a software driver.
pub fn gpu() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    DEVICE
        .get_or_init(|| {
            let options = GpuOptions {
                adapter: std::env::var("WGRAD_TEST_ADAPTER").ok(),
                software: true,
                portable_limits: set("WGRAD_PORTABLE_LIMITS"),
                hardware_kernels: set("WGRAD_HARDWARE_KERNELS"),
                ..Default::default()
            };
            match Device::gpu_blocking(options) {
                Ok(device) => {
                    println!("GPU: {device}");
                    Some(device)
                }
                Err(e) if set("WGRAD_ALLOW_MISSING") => {
                    println!("SKIPPED on the GPU: {e}");
                    None
                }
                Err(e) => panic!("{e}"),
            }
        })
        .as_ref()
}

/// The CPU executor, then the GPU.
pub fn devices() -> Vec<Device> {
    let mut all = vec![Device::cpu()];
    all.extend(gpu().cloned());
    all
}
