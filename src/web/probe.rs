//! Looking at a model while it reads a text.

use super::model::{Slot, busy};
use super::state::State;
use super::{settled, shaped};
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::graph::{Graph, Mode};
use crate::types::{Tensor, TensorType};
use js_sys::{Object, Promise, Reflect};
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// A compiled look. It takes turns with its model.
#[wasm_bindgen]
pub struct Probe {
    model: Slot,
    look: Rc<Look>,
}

struct Look {
    plan: Plan,
    outputs: Vec<String>,
    /// What one run leaves for the next.
    store: Store,
    carried: Vec<String>,
    shape: [usize; 2],
    epoch: u32,
}

impl Probe {
    /// Losses of texts of `length` tokens, or of the pieces of one text.
    pub(super) async fn new(state: &State, model: Slot, what: &str, batch: usize, length: usize) -> Result<Probe> {
        if batch == 0 || length == 0 {
            return Err(Error::argument("probe", "batch and length must be at least 1"));
        }
        let graph = Graph::new();
        let params = state.params().vars(&graph);
        let ids = graph.input("ids", TensorType::u32([batch, length + 1]));
        let store = Store::new(&state.place.device);
        let mut carried = Vec::new();
        let outputs = if what == "carry" {
            let Some(pieces) = state.language.pieces(length)? else {
                return Err(Error::argument("probe", "models of this kind carry nothing from piece to piece"));
            };
            for (name, ty) in pieces.states(1) {
                store.set_zeros(&name, &ty)?;
                carried.push(name);
            }
            let begin = graph.input("begin", TensorType::u32([1]));
            vec![("loss".to_owned(), pieces.segment_loss(&params, ids, Some(begin), Mode::Eval))]
        } else {
            let mut all = vec![("losses".to_owned(), state.language.losses(&params, ids))];
            all.extend(state.language.look(&params, ids));
            all
        };
        let named: Vec<_> = outputs.iter().map(|(name, var)| (name.as_str(), *var)).collect();
        let plan = state.place.device.compile(&graph, &named).await?;
        let outputs = outputs.iter().map(|(name, _)| name.clone()).collect();
        let look = Look { plan, outputs, store, carried, shape: [batch, length + 1], epoch: state.epoch };
        Ok(Probe { model, look: Rc::new(look) })
    }
}

impl Look {
    async fn run(&self, state: &State, ids: Vec<u32>, begin: bool) -> Result<JsValue> {
        if self.epoch != state.epoch {
            return Err(Error::argument("probe", "the model was prepared for training since; make a new one"));
        }
        let (ids, begin) = (Tensor::u32(self.shape, ids)?, Tensor::u32([1], vec![u32::from(begin)])?);
        let mut feed = Feed::new().store(state.store()).store(&self.store).input("ids", &ids);
        if !self.carried.is_empty() {
            feed = feed.input("begin", &begin);
        }
        self.plan.run(&feed)?;
        let found = Object::new();
        for name in &self.outputs {
            let _ = Reflect::set(&found, &name.into(), &shaped(&self.plan.read(name).await?));
        }
        for name in &self.carried {
            let _ = Reflect::set(&found, &name.into(), &shaped(&self.store.read(name).await?));
        }
        Ok(found.into())
    }
}

#[wasm_bindgen]
impl Probe {
    /// Reads ids `[batch, length + 1]`; resolves to what was seen, by name, each as `{ shape, data }`.
    pub fn run(&self, ids: Vec<u32>, begin: bool) -> Promise {
        let (model, look) = (self.model.clone(), self.look.clone());
        settled(Box::pin(async move {
            let state = model.take().ok_or_else(busy)?;
            let result = look.run(&state, ids, begin).await;
            model.set(Some(state));
            result
        }))
    }
}
