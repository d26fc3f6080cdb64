//! What a model consists of: where its parameters live, and how they are trained, loaded and saved.

use super::device::Inner as Place;
use super::languages::{self, Language};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::nn::{ParamVars, Params};
use crate::train::{Adam, AdamW, Checkpoint, Group, LoadOptions, Optimizer, Schedule, Sgd, Trainer};
use crate::types::{Tensor, TensorType};
use std::rc::Rc;

pub(super) struct State {
    pub place: Rc<Place>,
    pub language: Rc<dyn Language>,
    /// Kind and options, as JSON: how to build the model again.
    pub config: String,
    home: Home,
    /// Bytes of the checkpoint the model came from, until training goes on from it.
    checkpoint: Option<Vec<u8>>,
    /// Counts changes of where the parameters live.
    pub epoch: u32,
    /// Slots that sparse fine-tuning trains.
    pub slots: Option<Tensor>,
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
pub(super) struct Batch {
    pub texts: usize,
    pub tokens: usize,
    pub labels: bool,
    pub sparse: bool,
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
    pub fn new(place: Rc<Place>, kind: &str, options: &str, seed: u64) -> Result<State> {
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

    pub async fn load(place: Rc<Place>, bytes: Vec<u8>, kind: &str, options: &str) -> Result<State> {
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
    pub async fn prepare(&mut self, settings: &str) -> Result<()> {
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

    pub fn trainer(&mut self) -> Result<(&mut Trainer, Batch)> {
        match &mut self.home {
            Home::Training(trainer, batch) => Ok((trainer, *batch)),
            Home::Resting(..) => Err(Error::argument("train", "no training step was compiled; call prepare first")),
        }
    }

    /// Training steps so far, those of the file it came from included.
    pub fn steps(&self) -> u64 {
        match &self.home {
            Home::Training(trainer, _) => trainer.steps(),
            Home::Resting(..) => self.begun,
        }
    }

    pub async fn save(&self) -> Result<Vec<u8>> {
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
