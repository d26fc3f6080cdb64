//! Which of the adapters that a machine has.

use super::gpu::{GpuOptions, PowerPreference, describe, is_software};
use crate::error::{Error, Result};
use wgpu::{AdapterInfo, DeviceType};

const HINT: &str = "name part of one that was found, install a Vulkan, Metal or DX12 driver (on Debian or Ubuntu: mesa-vulkan-drivers and libvulkan1), \
allow software drivers, or use the CPU executor";

/// The adapter that the options take.
pub(super) async fn pick(instance: &wgpu::Instance, options: &GpuOptions) -> Result<wgpu::Adapter> {
    let mut all = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
    let infos: Vec<AdapterInfo> = all.iter().map(wgpu::Adapter::get_info).collect();
    match choose(&infos, options) {
        Some(i) => Ok(all.swap_remove(i)),
        None => {
            let request = match &options.adapter {
                Some(name) => format!("adapter \"{name}\""),
                None if options.software => "any adapter".into(),
                None => "a hardware adapter".into(),
            };
            Err(Error::NoAdapter { request, found: infos.iter().map(describe).collect(), hint: HINT.into() })
        }
    }
}

/// The place of the adapter whose turn it is: of those that fit, the first of the best kind and its equals are dealt out.
fn choose(all: &[AdapterInfo], options: &GpuOptions) -> Option<usize> {
    let fits = |i: usize, info: &AdapterInfo| match &options.adapter {
        Some(name) => match name.parse::<usize>() {
            Ok(index) if index < all.len() => i == index,
            _ => info.name.to_ascii_lowercase().contains(&name.to_ascii_lowercase()),
        },
        None => options.software || !is_software(info),
    };
    let fitting: Vec<(usize, &AdapterInfo)> = all.iter().enumerate().filter(|(i, info)| fits(*i, info)).collect();
    let (_, best) = fitting.iter().min_by_key(|(_, info)| preference(info.device_type, options.power))?;
    let equals: Vec<usize> = fitting.iter().filter(|(_, info)| alike(info, best)).map(|(i, _)| *i).collect();
    equals.get(options.turn % equals.len().max(1)).copied()
}

/// The smallest number is taken.
fn preference(kind: DeviceType, power: PowerPreference) -> u8 {
    match (kind, power) {
        (DeviceType::DiscreteGpu, PowerPreference::LowPower) => 1,
        (DeviceType::IntegratedGpu, PowerPreference::LowPower) => 0,
        (DeviceType::DiscreteGpu, _) => 0,
        (DeviceType::IntegratedGpu, _) => 1,
        (DeviceType::VirtualGpu, _) => 2,
        (DeviceType::Other, _) => 3,
        (DeviceType::Cpu, _) => 4,
    }
}

/// Whether both compute the same bits. One GPU is listed once for each backend and for each driver that sees it.
fn alike(a: &AdapterInfo, b: &AdapterInfo) -> bool {
    let model = |info: &AdapterInfo| (info.device_type, info.vendor, info.device);
    let seen_by = |info: &AdapterInfo| (info.backend, info.driver.clone(), info.driver_info.clone());
    a.name == b.name && model(a) == model(b) && seen_by(a) == seen_by(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::Backend;

    fn adapter(name: &str, kind: DeviceType, backend: Backend) -> AdapterInfo {
        let mut info = AdapterInfo::new(kind, backend);
        info.name = name.to_owned();
        info
    }

    fn card(name: &str) -> AdapterInfo {
        adapter(name, DeviceType::DiscreteGpu, Backend::Vulkan)
    }

    /// What the ranks of one machine get, one after the other.
    fn dealt<const N: usize>(all: &[AdapterInfo], options: &GpuOptions) -> [Option<usize>; N] {
        std::array::from_fn(|turn| choose(all, &GpuOptions { turn, ..options.clone() }))
    }

    fn named(part: &str) -> GpuOptions {
        GpuOptions { adapter: Some(part.to_owned()), ..Default::default() }
    }

    #[test]
    fn equal_adapters_are_dealt_out_in_turn() {
        let all = [card("H100"), card("H100"), card("H100")];
        assert_eq!(dealt(&all, &GpuOptions::default()), [0, 1, 2, 0, 1].map(Some));
        let one = [card("H100")];
        assert_eq!(dealt(&one, &GpuOptions::default()), [0, 0, 0, 0].map(Some));
    }

    #[test]
    fn adapters_of_other_kinds_get_no_rank() {
        let software = adapter("llvmpipe", DeviceType::Cpu, Backend::Vulkan);
        let integrated = adapter("Iris", DeviceType::IntegratedGpu, Backend::Vulkan);
        let other_backend = adapter("A40", DeviceType::DiscreteGpu, Backend::Dx12);
        let mut other_driver = card("A40");
        other_driver.driver = "another".into();
        let all = [software, integrated, card("A40"), other_backend, card("T400"), other_driver, card("A40")];
        assert_eq!(dealt(&all, &GpuOptions::default()), [2, 6, 2, 6].map(Some));
        let frugal = GpuOptions { power: PowerPreference::LowPower, ..Default::default() };
        assert_eq!(dealt(&all, &frugal), [1, 1].map(Some));
    }

    #[test]
    fn a_name_narrows_what_is_dealt_and_an_index_is_one_adapter() {
        let all = [card("A40"), card("T400"), card("A40"), card("T400")];
        assert_eq!(dealt(&all, &named("t4")), [1, 3, 1].map(Some));
        assert_eq!(dealt(&all, &named("40")), [0, 2, 0].map(Some));
        assert_eq!(dealt(&all, &named("2")), [2, 2].map(Some));
        assert_eq!(dealt(&all, &named("400")), [1, 3].map(Some)); // past the end of the list: part of a name
        assert_eq!(dealt(&all, &named("H100")), [None, None]);
    }

    #[test]
    fn software_is_taken_on_request_only() {
        let lavapipe = adapter("llvmpipe (LLVM 19.1.7, 256 bits)", DeviceType::Cpu, Backend::Vulkan);
        let swiftshader = adapter("SwiftShader Device", DeviceType::Cpu, Backend::Vulkan);
        let all = [lavapipe.clone(), swiftshader, lavapipe];
        assert_eq!(dealt(&all, &GpuOptions::default()), [None, None]);
        let software = GpuOptions { software: true, ..Default::default() };
        assert_eq!(dealt(&all, &software), [0, 2, 0].map(Some));
        assert_eq!(dealt(&all, &named("swift")), [1, 1].map(Some));
        assert_eq!(dealt(&[], &software), [None, None]);
    }
}
