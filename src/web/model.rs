//! Language models: training, reading, continuing, saving. One call at a time: the next waits for the promise of the last.

use super::device::{Device, Inner as Place};
use super::languages::{self, Language, Reader};
use super::settings::Settings;
use super::{array, promise, settled, thrown};
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::nn::Params;
use crate::ops::select::Sampling;
use crate::train::{Adam, AdamW, Checkpoint, LoadOptions, Optimizer, Schedule, Sgd, Trainer};
use crate::types::{Tensor, TensorType};
use js_sys::{Promise, Uint8Array, Uint32Array};
use std::cell::Cell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// A language model on a device.
#[wasm_bindgen]
pub struct Model {
    /// Empty while a call is running.
    slot: Rc<Cell<Option<Box<State>>>>,
}

struct State {
    place: Rc<Place>,
    language: Rc<dyn Language>,
    /// Kind and options, as JSON: how to build the model again.
    config: String,
    home: Home,
    /// Bytes of the checkpoint the model came from, until training goes on from it.
    checkpoint: Option<Vec<u8>>,
    /// Counts changes of where the parameters live.
    epoch: u32,
}

/// Where the parameters live.
enum Home {
    Resting(Params, Store),
    Training(Box<Trainer>, Batch),
}

/// Texts and tokens of a step.
#[derive(Clone, Copy)]
struct Batch {
    texts: usize,
    tokens: usize,
}

impl State {
    fn new(place: Rc<Place>, kind: &str, options: &str, seed: u64) -> Result<State> {
        let language = languages::build(kind, options)?;
        let params = language.init(seed);
        let store = params.store(&place.device)?;
        // Text of ours inside: the same options give the same text.
        let options: serde_json::Value = serde_json::from_str(options).unwrap_or_default();
        let config = serde_json::json!({ "kind": kind, "options": options }).to_string();
        Ok(State { place, language, config, home: Home::Resting(params, store), checkpoint: None, epoch: 0 })
    }

    fn params(&self) -> &Params {
        match &self.home {
            Home::Resting(params, _) => params,
            Home::Training(trainer, _) => trainer.params(),
        }
    }

    fn store(&self) -> &Store {
        match &self.home {
            Home::Resting(_, store) => store,
            Home::Training(trainer, _) => trainer.store(),
        }
    }

    async fn load(place: Rc<Place>, bytes: Vec<u8>, kind: &str, options: &str) -> Result<State> {
        let file = Checkpoint::from_bytes(bytes.clone())?;
        let own = file.metadata("wgrad.config").and_then(|c| serde_json::from_str::<serde_json::Value>(c).ok());
        let own = own.and_then(|c| Some((c.get("kind")?.as_str()?.to_owned(), c.get("options")?.clone())));
        let found = own.or_else(|| languages::recognise(&file).map(|(kind, options)| (kind.to_owned(), options)));
        let (found_kind, mut entries) = match found {
            Some(found) => found,
            None if kind.is_empty() => {
                let message = "its tensors are of no model known here; say which model it is, with its options";
                return Err(Error::checkpoint(None, message));
            }
            None => (kind.to_owned(), serde_json::json!({})),
        };
        if !kind.is_empty() && kind != found_kind {
            let message = format!("expected a model of kind \"{kind}\", the file has \"{found_kind}\"");
            return Err(Error::checkpoint(None, message));
        }
        if let (Some(entries), Ok(serde_json::Value::Object(given))) =
            (entries.as_object_mut(), serde_json::from_str(options))
        {
            entries.extend(given);
        }
        let mut state = State::new(place, &found_kind, &entries.to_string(), 0)?;
        let mut params = state.params().clone();
        file.load_into(&mut params, &LoadOptions::default())?;
        let resumes = file.metadata("wgrad.optimizer").is_some();
        let store = params.store(&state.place.device)?;
        state.home = Home::Resting(params, store);
        state.checkpoint = resumes.then_some(bytes);
        Ok(state)
    }

    /// Compiles the training step. What was learned stays, moments too where the optimizer is the same.
    async fn prepare(&mut self, settings: &str) -> Result<()> {
        let mut s = Settings::parse("train", settings)?;
        let batch = Batch { texts: s.get("batch", 8)?, tokens: s.get("length", 128)? };
        if batch.texts == 0 || batch.tokens == 0 {
            return Err(Error::argument("train", "batch and length must be at least 1"));
        }
        let lr: f64 = s.get("lr", 1e-3)?;
        let optimizer = optimizer(&mut s, lr)?;
        let warmup: u64 = s.get("warmup", 0)?;
        let total: Option<u64> = s.get("total", None)?;
        let schedule = match total {
            Some(total) => Schedule::Cosine { warmup, total, floor: s.get("floor", 0.0)? },
            None => Schedule::Warmup { steps: warmup },
        };
        let (clip, accumulate, seed) = (s.get("clip", 1.0)?, s.get("accumulate", 1u64)?, s.get("seed", 0u64)?);
        s.finish()?;
        let params = match &self.home {
            Home::Resting(params, _) => params.clone(),
            Home::Training(trainer, _) => {
                self.checkpoint = Some(trainer.to_bytes().await?);
                trainer.read_params().await?
            }
        };
        let mut builder = Trainer::builder(&self.place.device, params, optimizer.clone())
            .schedule(schedule)
            .clip(clip)
            .accumulate(accumulate as u32)
            .seed(seed)
            .config(self.config.clone());
        for (name, group) in self.language.groups(lr) {
            builder = builder.group(name, group);
        }
        let language = self.language.clone();
        let mut trainer = builder
            .compile(|graph, params| {
                let ids = graph.input("ids", TensorType::u32([batch.texts, batch.tokens + 1]));
                language.loss(params, ids)
            })
            .await?;
        if let Some(bytes) = &self.checkpoint {
            let file = Checkpoint::from_bytes(bytes.clone())?;
            if file.metadata("wgrad.optimizer") == Some(optimizer.name()) {
                trainer.resume(&file)?;
            }
        }
        self.checkpoint = None;
        self.home = Home::Training(Box::new(trainer), batch);
        self.epoch += 1;
        Ok(())
    }

    fn trainer(&mut self) -> Result<(&mut Trainer, Batch)> {
        match &mut self.home {
            Home::Training(trainer, batch) => Ok((trainer, *batch)),
            Home::Resting(..) => Err(Error::argument("train", "no training step was compiled; call prepare first")),
        }
    }

    async fn save(&self) -> Result<Vec<u8>> {
        match &self.home {
            Home::Training(trainer, _) => trainer.to_bytes().await,
            Home::Resting(params, _) => match &self.checkpoint {
                Some(bytes) => Ok(bytes.clone()),
                None => {
                    let mut params = params.clone();
                    params.read_from(self.store()).await?;
                    params.to_bytes_with(Some(&self.config))
                }
            },
        }
    }
}

fn optimizer(s: &mut Settings, lr: f64) -> Result<Optimizer> {
    let decay: Option<f64> = s.get("weightDecay", None)?;
    let name: String = s.get("optimizer", "adamw".to_owned())?;
    Ok(match name.as_str() {
        "adamw" => AdamW::default().lr(lr).weight_decay(decay.unwrap_or(0.01)).into(),
        "adam" => Adam::default().lr(lr).weight_decay(decay.unwrap_or(0.0)).into(),
        "sgd" => Sgd::default().lr(lr).momentum(s.get("momentum", 0.0)?).weight_decay(decay.unwrap_or(0.0)).into(),
        other => {
            let message = format!("expected \"adamw\", \"adam\" or \"sgd\", got \"{other}\"");
            return Err(Error::argument("train.optimizer", message));
        }
    })
}

fn busy() -> Error {
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

    fn of(state: State) -> Model {
        Model { slot: Rc::new(Cell::new(Some(Box::new(state)))) }
    }

    /// Kind, options, parameters and training steps so far, as JSON.
    pub fn describe(&self) -> Result<String, JsValue> {
        self.now(|state| {
            let config: serde_json::Value = serde_json::from_str(&state.config).unwrap_or_default();
            let steps = if let Home::Training(trainer, _) = &state.home { trainer.steps() } else { 0 };
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

    /// Queues one training step on token ids `[batch, length + 1]`.
    pub fn step(&self, ids: Vec<u32>) -> Result<(), JsValue> {
        self.now(|state| {
            let (trainer, batch) = state.trainer()?;
            let wanted = batch.texts * (batch.tokens + 1);
            if ids.len() != wanted {
                let (texts, tokens) = (batch.texts, batch.tokens + 1);
                let message = format!("expected {wanted} ids ({texts} texts of {tokens}), got {}", ids.len());
                return Err(Error::argument("batch", message));
            }
            trainer.step(&[("ids", &Tensor::u32([batch.texts, batch.tokens + 1], ids)?)])
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
            let open = Open { reader, epoch: state.epoch };
            Ok(Stream { model, slot: Rc::new(Cell::new(Some(open))) }.into())
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

/// A text that is read and continued. It takes turns with its model and the model's other streams.
#[wasm_bindgen]
pub struct Stream {
    model: Rc<Cell<Option<Box<State>>>>,
    slot: Rc<Cell<Option<Open>>>,
}

struct Open {
    reader: Box<dyn Reader>,
    epoch: u32,
}

#[wasm_bindgen]
impl Stream {
    /// Reads more tokens; resolves to the number of tokens read so far and the bytes of the state.
    pub fn feed(&self, tokens: Vec<u32>) -> Promise {
        self.exclusive(async move |open, store| {
            open.reader.feed(store, &tokens).await?;
            let numbers = [open.reader.tokens() as f64, open.reader.bytes() as f64];
            Ok(js_sys::Float64Array::from(&numbers[..]).into())
        })
    }

    /// Continues by `count` tokens; how they are drawn is JSON.
    pub fn generate(&self, count: usize, how: String, seed: f64) -> Promise {
        self.exclusive(async move |open, store| {
            let mut s = Settings::parse("generate", &how)?;
            let mut sampling = Sampling::default();
            s.set("temperature", &mut sampling.temperature)?;
            s.set("topK", &mut sampling.top_k)?;
            s.set("topP", &mut sampling.top_p)?;
            s.finish()?;
            let tokens = open.reader.generate(store, count, sampling, seed as u64).await?;
            Ok(Uint32Array::from(&tokens[..]).into())
        })
    }

    /// Logits of the next token.
    pub fn logits(&self) -> Promise {
        self.exclusive(async move |open, _| Ok(array(&open.reader.logits().await?)))
    }

    fn exclusive(&self, work: impl AsyncFnOnce(&mut Open, &Store) -> Result<JsValue> + 'static) -> Promise {
        let (model, slot) = (self.model.clone(), self.slot.clone());
        settled(Box::pin(async move {
            let (state, open) = (model.take(), slot.take());
            let result = match (&state, open) {
                (Some(state), Some(mut open)) => {
                    let result = if open.epoch == state.epoch {
                        work(&mut open, state.store()).await
                    } else {
                        let message = "the model was prepared for training since this was opened; open a new one";
                        Err(Error::argument("stream", message))
                    };
                    slot.set(Some(open));
                    result
                }
                (_, open) => {
                    slot.set(open);
                    Err(busy())
                }
            };
            model.set(state);
            result
        }))
    }
}
