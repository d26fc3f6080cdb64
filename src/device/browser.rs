//! Adapters as a browser shows them.

use super::gpu::{GpuOptions, is_software};
use crate::error::{Error, Result};
use js_sys::Reflect;
use wasm_bindgen::JsValue;

fn none(found: Vec<String>) -> Error {
    let request = if found.is_empty() { "any WebGPU adapter" } else { "a hardware adapter" };
    Error::NoAdapter {
        request: request.into(),
        found,
        hint: "switch on hardware acceleration, try another browser, or use the CPU executor; WebGPU needs a secure \
               context (https or localhost)"
            .into(),
    }
}

/// The browser's adapter; which of several it takes is the browser's choice.
pub(super) async fn pick(instance: &wgpu::Instance, options: &GpuOptions) -> Result<wgpu::Adapter> {
    let request = wgpu::RequestAdapterOptions { power_preference: options.power, ..Default::default() };
    let adapter = instance.request_adapter(&request).await.map_err(|_| none(vec![]))?;
    Ok(adapter)
}

/// The adapter under the name the browser gives it. `wgpu` passes on only `description`, which browsers leave empty, so
/// vendor and architecture are read here; a software adapter can be told only now.
pub(super) fn named(
    mut info: wgpu::AdapterInfo,
    device: &wgpu::Device,
    options: &GpuOptions,
) -> Result<wgpu::AdapterInfo> {
    if let Some(raw) = device.as_webgpu() {
        let get = |object: &JsValue, key: &str| Reflect::get(object, &key.into()).unwrap_or_default();
        let shown = get(raw.as_ref(), "adapterInfo");
        let words =
            ["vendor", "architecture", "description"].map(|key| get(&shown, key).as_string().unwrap_or_default());
        info.name = words.iter().filter(|w| !w.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ");
        if info.name.is_empty() {
            info.name = "unnamed adapter".into();
        }
    }
    match &options.adapter {
        Some(part) if !info.name.to_ascii_lowercase().contains(&part.to_ascii_lowercase()) => {
            Err(none(vec![info.name]))
        }
        None if is_software(&info) && !options.software => Err(none(vec![info.name])),
        _ => Ok(info),
    }
}
