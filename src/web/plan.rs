//! Plans and stores.

use super::device::Device;
use super::graph::Graph;
use super::{array, data, promise, thrown};
use crate::error::{Error, Result};
use crate::exec::Feed;
use crate::plan::{Options, Origin};
use crate::types::{Shape, Tensor, TensorType};
use js_sys::Promise;
use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// Named states on one device.
#[wasm_bindgen]
pub struct Store {
    inner: Rc<crate::Store>,
}

fn sizes(shape: &[u32]) -> Shape {
    shape.iter().map(|n| *n as usize).collect::<Vec<_>>().into()
}

#[wasm_bindgen]
impl Store {
    /// An empty store.
    #[wasm_bindgen(constructor)]
    pub fn new(device: &Device) -> Store {
        Store { inner: Rc::new(crate::Store::new(&device.inner.device)) }
    }

    /// Adds or overwrites a state.
    pub fn set(&self, name: &str, shape: &[u32], array: &JsValue) -> Result<(), JsValue> {
        let set = || self.inner.set(name, &Tensor::new(sizes(shape), data(array)?)?);
        set().map_err(thrown)
    }

    /// Adds a state of zeros, or zeroes one of the same type.
    pub fn zeros(&self, name: &str, u32: bool, shape: &[u32]) -> Result<(), JsValue> {
        let shape = sizes(shape);
        let ty = if u32 { TensorType::u32(shape) } else { TensorType::f32(shape) };
        self.inner.set_zeros(name, &ty).map_err(thrown)
    }

    /// The elements of a state.
    pub fn read(&self, name: String) -> Promise {
        let inner = self.inner.clone();
        promise(async move { Ok(array(&inner.read(&name).await?)) })
    }

    /// The `GPUBuffer` of a state; undefined on the CPU executor and where there is no such state.
    #[wasm_bindgen(js_name = rawBuffer)]
    pub fn raw_buffer(&self, name: &str) -> JsValue {
        let state = self.inner.get(name);
        let raw = state.as_ref().and_then(|s| s.buffer()).and_then(wgpu::Buffer::as_webgpu);
        raw.map_or(JsValue::UNDEFINED, |raw| JsValue::from(raw.clone()))
    }

    /// Shape of a state.
    pub fn shape(&self, name: &str) -> Option<Vec<u32>> {
        Some(self.inner.get(name)?.ty.shape.iter().map(|n| *n as u32).collect())
    }

    /// All names in order.
    pub fn names(&self) -> Vec<String> {
        self.inner.names()
    }

    /// Bytes of all states.
    #[wasm_bindgen(getter)]
    pub fn bytes(&self) -> f64 {
        self.inner.bytes() as f64
    }
}

/// A compiled program.
#[wasm_bindgen]
pub struct Plan {
    inner: Rc<crate::Plan>,
    inputs: RefCell<Vec<(String, Tensor)>>,
}

#[wasm_bindgen]
impl Plan {
    /// Compiles what the outputs and the graph's state updates need.
    #[wasm_bindgen(unchecked_return_type = "Promise<Plan>")]
    pub fn compile(
        device: &Device,
        graph: &Graph,
        names: Vec<String>,
        vars: Vec<u32>,
        fuse: bool,
        reuse: bool,
    ) -> Promise {
        let (device, graph) = (device.inner.clone(), graph.inner.clone());
        promise(async move {
            let outputs: Result<Vec<_>> =
                names.iter().zip(vars).map(|(n, v)| Ok((n.as_str(), graph.var(v)?))).collect();
            let plan = device.device.compile_with(&graph.graph, &outputs?, Options { fuse, reuse }).await?;
            Ok(Plan { inner: Rc::new(plan), inputs: RefCell::default() })
        })
    }

    /// Sets an input of the next run. Its shape is the one the graph declares.
    pub fn input(&self, name: &str, array: &JsValue) -> Result<(), JsValue> {
        let set = || {
            let is_it = |origin: &Origin| matches!(origin, Origin::Input(n) if **n == *name);
            // Inputs that the plan does not need are ignored.
            let Some(declared) = self.inner.program().buffers.iter().find(|b| is_it(&b.origin)) else { return Ok(()) };
            let data = data(array)?;
            if data.len() != declared.ty.numel() {
                let message = format!("expected {}, got {} elements", declared.ty, data.len());
                return Err(Error::Name { kind: "input", name: name.to_owned(), message });
            }
            self.inputs.borrow_mut().push((name.to_owned(), Tensor::new(declared.ty.shape.clone(), data)?));
            Ok(())
        };
        set().map_err(thrown)
    }

    /// Runs once with the inputs set since the last run.
    pub fn run(&self, store: &Store, step: u32, seed: f64) -> Result<(), JsValue> {
        let inputs = self.inputs.take();
        let feed = Feed::new().store(&store.inner).step(step, seed as u64);
        let feed = inputs.iter().fold(feed, |feed, (name, tensor)| feed.input(name, tensor));
        self.inner.run(&feed).map_err(thrown)
    }

    /// The elements of an output of the last run.
    pub fn read(&self, name: String) -> Promise {
        let inner = self.inner.clone();
        promise(async move { Ok(array(&inner.read(&name).await?)) })
    }

    /// The `GPUBuffer` that a run leaves an output in, then the offset and the number of its bytes; undefined on the CPU
    /// executor and where there is no such output.
    #[wasm_bindgen(js_name = rawBuffer)]
    pub fn raw_buffer(&self, name: &str) -> JsValue {
        let Some(slice) = self.inner.buffer(name) else { return JsValue::UNDEFINED };
        let Some(raw) = slice.buffer().as_webgpu() else { return JsValue::UNDEFINED };
        let (offset, size) = (slice.offset() as f64, slice.size() as f64);
        js_sys::Array::of3(&JsValue::from(raw.clone()), &offset.into(), &size.into()).into()
    }

    /// Bytes the plan holds on its device.
    #[wasm_bindgen(getter)]
    pub fn bytes(&self) -> f64 {
        self.inner.bytes() as f64
    }

    /// Steps, buffers, memory.
    #[wasm_bindgen(js_name = toString)]
    pub fn print(&self) -> String {
        self.inner.to_string()
    }
}
