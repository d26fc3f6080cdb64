//! Language models: training, reading, continuing, saving. One call at a time: the next waits for the promise of the last.

use super::device::Device;
use super::probe::Probe;
use super::state::State;
use super::stream::Stream;
use super::{promise, settled, shaped, thrown};
use crate::error::{Error, Result};
use crate::train::Checkpoint;
use crate::types::Tensor;
use js_sys::{Promise, Uint8Array};
use std::cell::Cell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// Where a model is while nobody works with it.
pub(super) type Slot = Rc<Cell<Option<Box<State>>>>;

/// A language model on a device.
#[wasm_bindgen]
pub struct Model {
    /// Empty while a call is running.
    slot: Slot,
}

/// Ids of a shape, if there are as many.
fn counted(what: &str, shape: [usize; 2], ids: Vec<u32>) -> Result<Tensor> {
    let [texts, tokens] = shape;
    if ids.len() != texts * tokens {
        let message = format!("expected {} ids ({texts} times {tokens}), got {}", texts * tokens, ids.len());
        return Err(Error::argument(what, message));
    }
    Tensor::u32(shape, ids)
}

pub(super) fn busy() -> Error {
    Error::argument("model", "a call is still running; wait for its promise")
}

#[wasm_bindgen]
impl Model {
    /// A fresh model, drawn from `seed`.
    #[wasm_bindgen(unchecked_return_type = "Promise<Model>")]
    pub fn create(device: &Device, kind: String, options: String, seed: f64) -> Promise {
        let place = device.inner.clone();
        promise(async move { Ok(Model::of(State::new(place, &kind, &options, seed as u64)?)) })
    }

    /// The model of a safetensors file. Options win over what the file says; an empty kind is the file's.
    #[wasm_bindgen(unchecked_return_type = "Promise<Model>")]
    pub fn load(device: &Device, bytes: Vec<u8>, kind: String, options: String) -> Promise {
        let place = device.inner.clone();
        promise(async move { Ok(Model::of(State::load(place, bytes, &kind, &options).await?)) })
    }

    /// A plan that looks at the model while it reads: `what` is "text" (losses of all tokens, and what a model of this kind
    /// shows) or "carry" (the loss of each next piece of one text).
    #[wasm_bindgen(unchecked_return_type = "Promise<Probe>")]
    pub fn probe(&self, what: String, batch: usize, length: usize) -> Promise {
        let model = self.slot.clone();
        self.exclusive(async move |state| Ok(Probe::new(state, model, &what, batch, length).await?.into()))
    }

    fn of(state: State) -> Model {
        Model { slot: Rc::new(Cell::new(Some(Box::new(state)))) }
    }

    /// Kind, options, parameters and training steps so far, as JSON.
    pub fn describe(&self) -> Result<String, JsValue> {
        self.now(|state| {
            let config: serde_json::Value = serde_json::from_str(&state.config).unwrap_or_default();
            let steps = state.steps();
            let parameters = state.params().numel();
            Ok(serde_json::json!({ "config": config, "parameters": parameters, "steps": steps }).to_string())
        })
    }

    /// Compiles the training step; settings are JSON.
    pub fn prepare(&self, settings: String) -> Promise {
        self.exclusive(async move |state| {
            state.prepare(&settings).await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Queues one training step on token ids `[batch, length + 1]`, or with labels `[batch, length]` of their own on ids
    /// `[batch, length]`.
    pub fn step(&self, ids: Vec<u32>, labels: Option<Vec<u32>>) -> Result<(), JsValue> {
        self.now(|state| {
            let slots = state.slots.clone();
            let (trainer, batch) = state.trainer()?;
            let shape = [batch.texts, batch.tokens + usize::from(!batch.labels)];
            let ids = counted("batch", shape, ids)?;
            let mut inputs = vec![("ids", &ids)];
            let labels = labels.map(|labels| counted("labels", [batch.texts, batch.tokens], labels)).transpose()?;
            inputs.extend(labels.as_ref().map(|labels| ("labels", labels)));
            inputs.extend(slots.as_ref().filter(|_| batch.sparse).map(|slots| ("slots", slots)));
            trainer.step(&inputs)
        })
    }

    /// Marks the slots (u32 0/1) that sparse fine-tuning trains.
    pub fn mark(&self, slots: Vec<u32>) -> Result<(), JsValue> {
        self.now(|state| {
            state.slots =
                Some(counted("slots", [state.language.slots(), 1], slots)?.reshape([state.language.slots()])?);
            Ok(())
        })
    }

    /// Loss and norm of the gradients of the last step, whether it was done, steps so far and skipped ones.
    pub fn report(&self) -> Promise {
        self.exclusive(async move |state| {
            let (trainer, _) = state.trainer()?;
            let report = trainer.report().await?;
            let norm = f64::from(report.grad_norm);
            let numbers =
                [f64::from(report.loss), norm, f64::from(report.ok), trainer.steps() as f64, f64::from(report.skipped)];
            Ok(js_sys::Float64Array::from(&numbers[..]).into())
        })
    }

    /// The model as a safetensors file; with the optimizer's state once it has been trained.
    pub fn save(&self) -> Promise {
        self.exclusive(async move |state| Ok(Uint8Array::from(&state.save().await?[..]).into()))
    }

    /// An empty text to read and continue.
    #[wasm_bindgen(unchecked_return_type = "Promise<Stream>")]
    pub fn stream(&self, capacity: usize) -> Promise {
        let model = self.slot.clone();
        self.exclusive(async move |state| {
            let reader = state.language.open(&state.place.device, state.params(), capacity).await?;
            Ok(Stream::new(model, reader, state.epoch).into())
        })
    }
}

impl Model {
    fn now<T>(&self, work: impl FnOnce(&mut State) -> Result<T>) -> Result<T, JsValue> {
        let mut state = self.slot.take().ok_or_else(|| thrown(busy()))?;
        let result = work(&mut state);
        self.slot.set(Some(state));
        result.map_err(thrown)
    }

    fn exclusive(&self, work: impl AsyncFnOnce(&mut State) -> Result<JsValue> + 'static) -> Promise {
        let slot = self.slot.clone();
        settled(Box::pin(async move {
            let mut state = slot.take().ok_or_else(busy)?;
            let result = work(&mut state).await;
            slot.set(Some(state));
            result
        }))
    }
}

/// The tensors of floats of a safetensors file, by name, each as `{ shape, data }`.
#[wasm_bindgen(js_name = readTensors)]
pub fn read_tensors(bytes: Vec<u8>) -> Result<JsValue, JsValue> {
    let read = || {
        let (file, found) = (Checkpoint::from_bytes(bytes)?, js_sys::Object::new());
        for name in file.names() {
            // Counters, such as an optimizer's, are of other types.
            if let Ok(tensor) = file.tensor(&name) {
                let _ = js_sys::Reflect::set(&found, &name.as_str().into(), &shaped(&tensor));
            }
        }
        Ok(found.into())
    };
    read().map_err(thrown)
}
