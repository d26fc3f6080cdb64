//! The Vulkan adapters of this machine. The loader reads its environment once and a driver may crash, so a listing runs
//! in a process of its own.

use std::env;
use std::ffi::CStr;
use std::os::raw::c_char;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ash::vk;

use crate::run;

/// One physical device and its driver.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub name: String,
    pub driver: String,
    pub hardware: bool,
}

impl Adapter {
    /// For the summary: the name, then the driver's own words.
    pub fn place(&self) -> String {
        format!("{}, {}", self.name, self.driver)
    }

    fn line(&self) -> String {
        let kind = if self.hardware { "hardware" } else { "software" };
        format!("{kind}\t{}\t{}", self.name, self.driver)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let hardware = fields.next()? == "hardware";
        Some(Self { name: fields.next()?.into(), driver: fields.next()?.into(), hardware })
    }
}

/// The adapters that the loader finds, or only those of one driver manifest.
pub fn list(manifest: Option<&Path>) -> Result<Vec<Adapter>> {
    let mut command = run::command(env::current_exe()?);
    command.arg("adapters");
    if let Some(manifest) = manifest {
        command.env("VK_DRIVER_FILES", manifest);
    }
    let text = run::output(&mut command)?;
    Ok(text.lines().filter_map(Adapter::parse).collect())
}

/// The first adapter of one driver manifest.
pub fn of(manifest: &Path) -> Result<Adapter> {
    let first = list(Some(manifest))?.into_iter().next();
    first.with_context(|| format!("{} offers no Vulkan adapter", manifest.display()))
}

/// `cargo xtask adapters`: one adapter a line, tab-separated.
pub fn print() -> Result<()> {
    for adapter in enumerate()? {
        println!("{}", adapter.line());
    }
    Ok(())
}

fn enumerate() -> Result<Vec<Adapter>> {
    // SAFETY: `each` hands out devices of a living instance.
    each(|instance, device| unsafe { describe(instance, device) })
}

/// What `f` finds out about each physical device.
fn each<T>(f: impl Fn(&ash::Instance, vk::PhysicalDevice) -> T) -> Result<Vec<T>> {
    // SAFETY: the loader is the system's own; nothing outlives `entry`, and the instance is destroyed at the end.
    unsafe {
        let entry = ash::Entry::load().context("the Vulkan loader does not load")?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        let instance = match entry.create_instance(&info, None) {
            Ok(instance) => instance,
            Err(vk::Result::ERROR_INCOMPATIBLE_DRIVER) => return Ok(Vec::new()),
            Err(error) => bail!("no Vulkan instance: {error}"),
        };
        let found = instance.enumerate_physical_devices();
        let answers = found.iter().flatten().map(|device| f(&instance, *device)).collect();
        instance.destroy_instance(None);
        found.context("cannot list the Vulkan devices")?;
        Ok(answers)
    }
}

/// `cargo xtask adapters --mistake`: asks each adapter for images that nothing uses, which Vulkan forbids and a
/// validation layer must see.
pub fn mistake() -> Result<()> {
    let ask = |instance: &ash::Instance, device: vk::PhysicalDevice| {
        let (format, usage) = (vk::Format::R8G8B8A8_UNORM, vk::ImageUsageFlags::empty());
        let (kind, tiling) = (vk::ImageType::TYPE_2D, vk::ImageTiling::OPTIMAL);
        let flags = vk::ImageCreateFlags::empty();
        // SAFETY: a question; every driver answers one that makes no sense with an error.
        let _ =
            unsafe { instance.get_physical_device_image_format_properties(device, format, kind, tiling, usage, flags) };
    };
    each(ask).map(drop)
}

/// # Safety
/// `device` belongs to `instance`, which is alive.
unsafe fn describe(instance: &ash::Instance, device: vk::PhysicalDevice) -> Adapter {
    let mut driver = vk::PhysicalDeviceDriverProperties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
    // SAFETY: the caller's promise; SwiftShader, Mesa and every desktop driver know Vulkan 1.1's query.
    unsafe { instance.get_physical_device_properties2(device, &mut properties) };
    let basic = properties.properties;
    let words = [text(&driver.driver_info), text(&driver.driver_name), format!("driver {:#x}", basic.driver_version)];
    let words = words.into_iter().find(|words| !words.is_empty()).unwrap_or_default();
    let hardware = [
        vk::PhysicalDeviceType::DISCRETE_GPU,
        vk::PhysicalDeviceType::INTEGRATED_GPU,
        vk::PhysicalDeviceType::VIRTUAL_GPU,
    ];
    Adapter { name: text(&basic.device_name), driver: words, hardware: hardware.contains(&basic.device_type) }
}

fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|c| *c as u8).collect();
    let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    text.to_string_lossy().replace('\t', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back() {
        let adapter = Adapter { name: "llvmpipe (LLVM 19)".into(), driver: "Mesa 25".into(), hardware: false };
        assert_eq!(Adapter::parse(&adapter.line()), Some(adapter));
        assert_eq!(Adapter::parse("software"), None);
    }
}
