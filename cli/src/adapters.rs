//! `wgrad adapters`.

use anyhow::Result;
use wgrad::{Device, wgpu};

pub fn run() -> Result<()> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::PRIMARY;
    let instance = wgpu::Instance::new(descriptor);
    let all = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    if all.is_empty() {
        println!("wgpu sees no adapter: install a Vulkan, Metal or DX12 driver");
    }
    for (i, adapter) in all.iter().enumerate() {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let driver = [info.driver.as_str(), info.driver_info.as_str()].join(" ");
        println!("{i}: {} ({:?}, {:?}) {}", info.name, info.backend, info.device_type, driver.trim());
        println!(
            "   bindings {}, buffers {}, {} storage buffers, {} invocations, {} of workgroup memory, timestamps: {}",
            crate::bytes(limits.max_storage_buffer_binding_size),
            crate::bytes(limits.max_buffer_size),
            limits.max_storage_buffers_per_shader_stage,
            limits.max_compute_invocations_per_workgroup,
            crate::bytes(u64::from(limits.max_compute_workgroup_storage_size)),
            if features.contains(wgpu::Features::TIMESTAMP_QUERY) { "yes" } else { "no" }
        );
    }
    println!("would run: {}", Device::auto_blocking()?);
    let software = all.iter().any(|a| a.get_info().device_type == wgpu::DeviceType::Cpu);
    if software {
        println!("software drivers run only on request: GpuOptions::software, or part of the name");
    }
    Ok(())
}
