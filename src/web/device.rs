//! Devices.

use super::{promise, thrown};
use crate::device::GpuOptions;
use crate::error::Error;
use js_sys::Promise;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// Where plans run.
#[wasm_bindgen]
pub struct Device {
    pub(super) inner: Rc<Inner>,
}

pub(super) struct Inner {
    pub device: crate::Device,
    /// Why the CPU executor was taken though a GPU would have been welcome.
    pub reason: Option<String>,
}

#[wasm_bindgen]
impl Device {
    /// Picks the executor: "auto", "gpu" or "cpu". Throws with code "no-adapter" when a GPU was asked for and there is none.
    #[wasm_bindgen(unchecked_return_type = "Promise<Device>")]
    pub fn request(executor: String, software: bool, low_power: bool, portable_limits: bool) -> Promise {
        promise(async move {
            let power =
                if low_power { wgpu::PowerPreference::LowPower } else { wgpu::PowerPreference::HighPerformance };
            let gpu = || crate::Device::gpu(GpuOptions { software, power, portable_limits, ..Default::default() });
            let (device, reason) = match executor.as_str() {
                "cpu" => (crate::Device::cpu(), None),
                "gpu" => (gpu().await?, None),
                "auto" => match gpu().await {
                    Ok(device) => (device, None),
                    Err(Error::NoAdapter { found, .. }) => (crate::Device::cpu(), Some(refused(&found))),
                    Err(error @ Error::Limit { .. }) => (crate::Device::cpu(), Some(error.to_string())),
                    Err(other) => return Err(other),
                },
                other => {
                    let message = format!("expected \"auto\", \"gpu\" or \"cpu\", got \"{other}\"");
                    return Err(Error::argument("executor", message));
                }
            };
            Ok(Device { inner: Rc::new(Inner { device, reason }) })
        })
    }

    /// Whether plans run on a GPU adapter.
    #[wasm_bindgen(getter, js_name = isGpu)]
    pub fn is_gpu(&self) -> bool {
        self.inner.device.is_gpu()
    }

    /// The adapter's name as the browser gives it, or "CPU executor".
    #[wasm_bindgen(getter)]
    pub fn adapter(&self) -> String {
        match self.inner.device.as_gpu().and_then(|gpu| gpu.adapter()) {
            Some(info) => info.name.clone(),
            None => "CPU executor".into(),
        }
    }

    /// Why the CPU executor was taken though a GPU would have been welcome.
    #[wasm_bindgen(getter)]
    pub fn reason(&self) -> Option<String> {
        self.inner.reason.clone()
    }

    /// The `GPUDevice`; undefined on the CPU executor.
    #[wasm_bindgen(getter)]
    pub fn raw(&self) -> JsValue {
        let raw = self.inner.device.as_gpu().and_then(|gpu| gpu.wgpu().0.as_webgpu());
        raw.map_or(JsValue::UNDEFINED, |raw| JsValue::from(raw.clone()))
    }

    /// Its `GPUQueue`; undefined on the CPU executor.
    #[wasm_bindgen(getter, js_name = rawQueue)]
    pub fn raw_queue(&self) -> JsValue {
        let raw = self.inner.device.as_gpu().and_then(|gpu| gpu.wgpu().1.as_webgpu());
        raw.map_or(JsValue::UNDEFINED, |raw| JsValue::from(raw.clone()))
    }

    /// Buffers, bytes of them, bind groups, pipelines and submits made so far, then pipelines asked for.
    pub fn counters(&self) -> Vec<f64> {
        let Some(gpu) = self.inner.device.as_gpu() else { return vec![0.0; 6] };
        gpu.counters.snapshot().into_iter().chain([gpu.counters.wanted()]).map(|n| n as f64).collect()
    }

    /// Throws the error that made the device unusable, if there is one.
    pub fn check(&self) -> Result<(), JsValue> {
        self.inner.device.as_gpu().map_or(Ok(()), |gpu| gpu.check()).map_err(thrown)
    }

    /// The device with its limits.
    #[wasm_bindgen(js_name = toString)]
    pub fn describe(&self) -> String {
        self.inner.device.to_string()
    }
}

fn refused(found: &[String]) -> String {
    match found.first() {
        None => "this browser offers no WebGPU".into(),
        Some(adapter) => format!("this browser offers only a software adapter, {adapter}"),
    }
}
