//! Devices the tests run on.
#![allow(dead_code)]

pub mod known;
pub mod modules;
pub mod ops;

use std::sync::{Arc, OnceLock};
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

/// Ends the test program at an error of wgpu that no scope of the library caught: none is ever expected, also where no later
/// call would notice.
fn watched(device: Device) -> Device {
    if let Some(gpu) = device.as_gpu() {
        gpu.wgpu().0.on_uncaptured_error(Arc::new(|error| {
            eprintln!("wgpu reports what nobody caught: {error}");
            std::process::abort();
        }));
    }
    device
}

/// A device of one test's own: to count what is made on it, or to lose it.
pub fn fresh(options: GpuOptions) -> Option<Device> {
    match Device::gpu_blocking(options) {
        Ok(device) => Some(watched(device)),
        Err(e) if set("WGRAD_ALLOW_MISSING") => {
            println!("SKIPPED on the GPU: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// Asks the device for what it must refuse, outside of every scope.
pub fn make_an_error(device: &Device) {
    let (device, _) = device.as_gpu().expect("a GPU").wgpu();
    let _ = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE,
        mapped_at_creation: false,
    });
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
