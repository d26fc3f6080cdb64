//! Texts that a model reads and continues.

use super::languages::Reader;
use super::model::{Slot, busy};
use super::settings::Settings;
use super::{array, settled, shaped};
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::ops::select::Sampling;
use js_sys::{Promise, Uint32Array};
use std::cell::Cell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// A text that is read and continued. It takes turns with its model and the model's other streams.
#[wasm_bindgen]
pub struct Stream {
    model: Slot,
    slot: Rc<Cell<Option<Open>>>,
}

struct Open {
    reader: Box<dyn Reader>,
    epoch: u32,
}

impl Stream {
    pub(super) fn new(model: Slot, reader: Box<dyn Reader>, epoch: u32) -> Stream {
        Stream { model, slot: Rc::new(Cell::new(Some(Open { reader, epoch }))) }
    }
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
