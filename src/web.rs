//! The JavaScript surface: thin classes over the library. A class holds its contents by `Rc` and clones it before it
//! waits, so that JavaScript may free it meanwhile. Errors are JavaScript `Error`s with a `code`.

use crate::demo::Demo;
use crate::error::Error;
#[cfg(feature = "oracle")]
use crate::ops::{check, samples};
use crate::{GpuOptions, Options};
use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** What every error thrown by this package carries. */
export interface WgradError extends Error {
  /** The kind in one word: "shape", "limit", "no-adapter", "device-lost", "not-finite", … */
  code: string;
}

export interface DeviceOptions {
  /** "auto" (the default) takes a hardware GPU where there is one, else the CPU executor. */
  executor?: "auto" | "gpu" | "cpu";
  /** Also takes a software adapter, such as SwiftShader. */
  software?: boolean;
}

/** A shader of the library. */
export interface Shader {
  name: string;
  text: string;
}
"#;

#[wasm_bindgen]
extern "C" {
    /// Options of [`Device::request`].
    #[wasm_bindgen(typescript_type = "DeviceOptions")]
    pub type DeviceOptions;
    #[wasm_bindgen(method, getter)]
    fn executor(this: &DeviceOptions) -> Option<String>;
    #[wasm_bindgen(method, getter)]
    fn software(this: &DeviceOptions) -> Option<bool>;
}

/// Writes panics to the console. Runs by itself when the module starts.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

fn thrown(error: Error) -> JsValue {
    let thrown = js_sys::Error::new(&error.to_string());
    thrown.set_name("WgradError");
    // A plain new object takes any property.
    let _ = Reflect::set(&thrown, &"code".into(), &error.code().into());
    thrown.into()
}

fn promise<T: Into<JsValue>>(future: impl Future<Output = crate::Result<T>> + 'static) -> Promise {
    future_to_promise(async move { future.await.map(Into::into).map_err(thrown) })
}

/// Where plans run.
#[wasm_bindgen]
pub struct Device {
    inner: Rc<Inner>,
}

struct Inner {
    device: crate::Device,
    /// Why the CPU executor was taken though a GPU would have been welcome.
    reason: Option<String>,
}

#[wasm_bindgen]
impl Device {
    /// Picks the executor. Throws with code "no-adapter" when a GPU was asked for and there is none.
    #[wasm_bindgen(unchecked_return_type = "Promise<Device>")]
    pub fn request(options: Option<DeviceOptions>) -> Promise {
        let executor = options.as_ref().and_then(DeviceOptions::executor).unwrap_or_else(|| "auto".into());
        let software = options.as_ref().and_then(DeviceOptions::software).unwrap_or(false);
        promise(async move {
            let gpu = || crate::Device::gpu(GpuOptions { software, ..Default::default() });
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

/// Names of the operations' samples that contain `filter`.
#[cfg(feature = "oracle")]
#[wasm_bindgen(js_name = sampleNames)]
pub fn sample_names(filter: Option<String>) -> Vec<String> {
    let filter = filter.unwrap_or_default();
    samples::all().into_iter().map(|s| s.name).filter(|name| name.contains(&filter)).collect()
}

/// Runs one sample, forward and backward, on a device and against the oracle in double precision. Resolves to the
/// largest relative difference; throws where it is more than the sample's tolerance, or two runs differ.
#[cfg(feature = "oracle")]
#[wasm_bindgen(js_name = checkSample, unchecked_return_type = "Promise<number>")]
pub fn check_sample(device: &Device, name: String) -> Promise {
    let inner = device.inner.clone();
    promise(async move {
        let Some(sample) = samples::all().into_iter().find(|s| s.name == name) else {
            return Err(Error::argument("sample", format!("none is called {name}; sampleNames() lists them")));
        };
        check::against_oracle(&sample, &inner.device, Options::default()).await
    })
}

/// Every shader text of the library, generated ones as the samples need them.
#[cfg(feature = "oracle")]
#[wasm_bindgen(unchecked_return_type = "Promise<Shader[]>")]
pub fn shaders() -> Promise {
    promise(async move {
        let all = Array::new();
        for (name, text) in check::shaders().await? {
            let shader = Object::new();
            let _ = Reflect::set(&shader, &"name".into(), &name.into());
            let _ = Reflect::set(&shader, &"text".into(), &text.into());
            all.push(&shader);
        }
        Ok(all)
    })
}

/// A small byte-level language model in training. One call at a time: the next waits for the promise of the last.
#[wasm_bindgen]
pub struct TrainerDemo {
    /// Empty while a call is running.
    slot: Rc<Cell<Option<Demo>>>,
    parameters: usize,
    tokens_per_step: usize,
}

#[wasm_bindgen]
impl TrainerDemo {
    /// Draws a model from `seed` and compiles its training step. It learns `text`, or a page of its own.
    #[wasm_bindgen(unchecked_return_type = "Promise<TrainerDemo>")]
    pub fn create(device: &Device, seed: u32, text: Option<Vec<u8>>) -> Promise {
        let inner = device.inner.clone();
        promise(async move {
            let demo = Demo::new(&inner.device, u64::from(seed), text).await?;
            let (parameters, tokens_per_step) = (demo.parameters(), demo.tokens_per_step());
            Ok(TrainerDemo { slot: Rc::new(Cell::new(Some(demo))), parameters, tokens_per_step })
        })
    }

    /// One training step; resolves to its loss in nats a byte.
    #[wasm_bindgen(unchecked_return_type = "Promise<number>")]
    pub fn step(&self) -> Promise {
        self.steps(1)
    }

    /// `n` training steps; resolves to the last one's loss in nats a byte.
    #[wasm_bindgen(unchecked_return_type = "Promise<number>")]
    pub fn steps(&self, n: u32) -> Promise {
        self.exclusive(async move |demo| {
            (0..n).try_for_each(|_| demo.step())?;
            demo.loss().await
        })
    }

    /// What the model writes after `prompt`; resolves to `count` bytes.
    #[wasm_bindgen(unchecked_return_type = "Promise<Uint8Array>")]
    pub fn sample(&self, prompt: Vec<u8>, count: usize) -> Promise {
        self.exclusive(async move |demo| {
            let bytes = demo.sample(&prompt, count).await?;
            Ok(Uint8Array::from(bytes.as_slice()))
        })
    }

    /// Numbers that are learned.
    #[wasm_bindgen(getter)]
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Bytes that one step predicts.
    #[wasm_bindgen(getter, js_name = tokensPerStep)]
    pub fn tokens_per_step(&self) -> usize {
        self.tokens_per_step
    }
}

impl TrainerDemo {
    fn exclusive<T: Into<JsValue>>(&self, work: impl AsyncFnOnce(&mut Demo) -> crate::Result<T> + 'static) -> Promise {
        let slot = self.slot.clone();
        promise(async move {
            let Some(mut demo) = slot.take() else {
                return Err(Error::argument("TrainerDemo", "a call is still running; wait for its promise"));
            };
            let result = work(&mut demo).await;
            slot.set(Some(demo));
            result
        })
    }
}
