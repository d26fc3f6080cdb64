//! What the project's own page needs beyond the package: a training run, and every operation's samples against the oracle.

use super::device::Device;
use super::promise;
use crate::check::sample as check;
use crate::check::{GradCheck, gradcheck};
use crate::demo::Demo;
use crate::error::Error;
use crate::kernels::CpuCall;
use crate::ops::custom::{CustomOp, Twin};
use crate::ops::samples;
use crate::types::{DType, Real, Tensor};
use crate::{Feed, Graph, Options};
use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use std::cell::Cell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** A shader of the library. */
export interface Shader {
  name: string;
  text: string;
}
"#;

/// Names of the operations' samples that contain `filter`.
#[wasm_bindgen(js_name = sampleNames)]
pub fn sample_names(filter: Option<String>) -> Vec<String> {
    let filter = filter.unwrap_or_default();
    samples::all().into_iter().map(|s| s.name).filter(|name| name.contains(&filter)).collect()
}

/// Runs one sample, forward and backward, on a device and against the oracle in double precision. Resolves to the
/// largest relative difference; throws where it is more than the sample's tolerance, or two runs differ.
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

/// A kernel of the user's own: against its twin, and its gradient against differences, on the device and in double precision.
#[wasm_bindgen(js_name = checkCustom, unchecked_return_type = "Promise<number>")]
pub fn check_custom(device: &Device) -> Promise {
    let inner = device.inner.clone();
    promise(async move {
        let cube = CustomOp::builder("cube", CUBE)
            .inputs([DType::F32])
            .outputs([DType::F32])
            .workgroups(|_, out| out[0].numel().div_ceil(64))
            .vjp(|cx| cx.dense([cx.cotangent().map(|g| g * 3.0 * cx.inputs[0].square())]))
            .cpu(Cube)
            .build()?;
        let values = (0..150).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = Tensor::f32([50, 3], values)?;
        let oracle = crate::Device::cpu_f64();
        gradcheck(&oracle, GradCheck::of(&oracle), std::slice::from_ref(&x), |_, v| cube.apply(v)).await?;
        gradcheck(&inner.device, GradCheck::of(&inner.device), std::slice::from_ref(&x), |_, v| cube.apply(v)).await?;
        let graph = Graph::new();
        let y = cube.apply(&[graph.input("x", x.ty())])[0];
        let plan = inner.device.compile(&graph, &[("y", y)]).await?;
        plan.run(&Feed::new().input("x", &x))?;
        let y = plan.read("y").await?;
        let worst = x.floats().iter().zip(y.floats()).map(|(x, y)| (x * x * x - y).abs()).fold(0.0, f32::max);
        if worst > 1e-6 {
            return Err(Error::argument("cube", format!("differs by {worst:e}")));
        }
        Ok(f64::from(worst))
    })
}

const CUBE: &str = "// #include \"shared/grid.wgsl\"
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = 64u * workgroup_index(wid, wn) + lid;
    if (i < arrayLength(&y)) { y[i] = x[i] * x[i] * x[i]; }
}";

struct Cube;

impl Twin for Cube {
    fn run<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let x = call.f(0);
        call.out(0).iter_mut().zip(x).for_each(|(y, x)| *y = *x * *x * *x);
    }
}

/// Every shader text of the library, generated ones as the samples need them.
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
