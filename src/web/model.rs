//! Language models: training, reading, continuing, saving. One call at a time: the next waits for the promise of the last.

use super::device::{Device, Inner as Place};
use super::languages::{self, Language, Reader};
use super::probe::Probe;
use super::settings::Settings;
use super::{array, promise, settled, shaped, thrown};
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::nn::{ParamVars, Params};
use crate::ops::select::Sampling;
use crate::train::{Adam, AdamW, Checkpoint, Group, LoadOptions, Optimizer, Schedule, Sgd, Trainer};
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

pub(super) struct State {
    pub place: Rc<Place>,
    pub language: Rc<dyn Language>,
    /// Kind and options, as JSON: how to build the model again.
    config: String,
    home: Home,
    /// Bytes of the checkpoint the model came from, until training goes on from it.
    checkpoint: Option<Vec<u8>>,
    /// Counts changes of where the parameters live.
    pub epoch: u32,
    /// Slots that sparse fine-tuning trains.
    slots: Option<Tensor>,
    /// Training steps of the checkpoint.
    begun: u64,
}

/// Where the parameters live.
enum Home {
    Resting(Params, Store),
    Training(Box<Trainer>, Batch),
}

/// Texts and tokens of a step, and what is given beside them.
#[derive(Clone, Copy)]
struct Batch {
    texts: usize,
    tokens: usize,
    labels: bool,
    sparse: bool,
}

impl Batch {
    fn loss<'g>(self, language: &dyn Language, graph: &'g Graph, params: &ParamVars<'g>) -> Var<'g> {
        let ids = |n: usize| graph.input("ids", TensorType::u32([self.texts, n]));
        if self.labels {
            let labels = graph.input("labels", TensorType::u32([self.texts, self.tokens]));
            return language.labelled(params, ids(self.tokens), labels);
        }
        let ids = ids(self.tokens + 1);
        if !self.sparse {
            return language.loss(params, ids);
        }
        let slots = graph.input("slots", TensorType::u32([language.slots()]));
        language.sparse(params, ids, slots).unwrap_or_else(|| {
            graph.fail(Error::argument("train.sparse", "only models with product-key memories are trained so"));
            graph.full([], 0.0)
        })
    }
}

impl State {
    fn new(place: Rc<Place>, kind: &str, options: &str, seed: u64) -> Result<State> {
        let language = languages::build(kind, options)?;
        let params = language.init(seed);
        let store = params.store(&place.device)?;
        // Text of ours inside: the same options give the same text.
        let options: serde_json::Value = serde_json::from_str(options).unwrap_or_default();
        let config = serde_json::json!({ "kind": kind, "options": options }).to_string();
        Ok(State {
            place,
            language,
            config,
            home: Home::Resting(params, store),
            checkpoint: None,
            epoch: 0,
            slots: None,
            begun: 0,
        })
    }

    pub fn params(&self) -> &Params {
        match &self.home {
            Home::Resting(params, _) => params,
            Home::Training(trainer, _) => trainer.params(),
        }
    }

    pub fn store(&self) -> &Store {
        match &self.home {
            Home::Resting(_, store) => store,
            Home::Training(trainer, _) => trainer.store(),
        }
    }

    async fn load(place: Rc<Place>, bytes: Vec<u8>, kind: &str, options: &str) -> Result<State> {
        let file = Checkpoint::from_bytes(bytes.clone())?;
        let own = file.metadata("wgrad.config").and_then(|c| serde_json::from_str::<serde_json::Value>(c).ok());
        let own = own.and_then(|c| Some((c.get("kind")?.as_str()?.to_owned(), c.get("options")?.clone())));
        let found =
            own.or_else(|| crate::models::recognise::language(&file).map(|(kind, options)| (kind.to_owned(), options)));
        let (found_kind, mut entries) = match found {
            Some(found) => found,
            None if crate::models::recognise::is_colt5(&file) => {
                let message = "these are the tensors of a layer of CoLT5-attention, which is no language model by itself; \
                    readTensors gives them by name";
                return Err(Error::checkpoint(None, message));
            }
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
        state.begun = file.metadata("wgrad.steps").and_then(|steps| steps.parse().ok()).unwrap_or(0);
        let store = params.store(&state.place.device)?;
        state.home = Home::Resting(params, store);
        // Another model, by the caller's options, does not go on from the optimizer's state.
        let same = file.metadata("wgrad.config").is_none_or(|config| config == state.config);
        state.checkpoint = (resumes && same).then_some(bytes);
        Ok(state)
    }

    /// Compiles the training step. What was learned stays, moments too where the optimizer is the same.
    async fn prepare(&mut self, settings: &str) -> Result<()> {
        let mut s = Settings::parse("train", settings)?;
        let (labels, sparse) = (s.get("labels", false)?, s.get("sparse", false)?);
        let batch = Batch { texts: s.get("batch", 8)?, tokens: s.get("length", 128)?, labels, sparse };
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
        let values_lr: Option<f64> = s.get("valuesLr", None)?;
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
        for (name, group) in self.language.groups(lr, values_lr) {
            builder = builder.group(name, group);
        }
        if sparse {
            // All but the values of memories stays as it is.
            builder = builder.group("default", Group::default().lr_factor(0.0));
        }
        let language = self.language.clone();
        let mut trainer = builder.compile(|graph, params| batch.loss(&*language, graph, params)).await?;
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

    /// Training steps so far, those of the file it came from included.
    fn steps(&self) -> u64 {
        match &self.home {
            Home::Training(trainer, _) => trainer.steps(),
            Home::Resting(..) => self.begun,
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

    /// Names of the tensors of the state, where it can be looked at.
    pub fn names(&self) -> Promise {
        self.exclusive(async move |open, _| {
            let names = open.reader.store().map(Store::names).unwrap_or_default();
            Ok(names.into_iter().map(JsValue::from).collect::<js_sys::Array>().into())
        })
    }

    /// A tensor of the state: its shape and its elements.
    pub fn read(&self, name: String) -> Promise {
        self.exclusive(async move |open, _| match open.reader.store() {
            Some(store) => Ok(shaped(&store.read(&name).await?)),
            None => Err(Error::argument("stream", "the state of this model cannot be looked at")),
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
