//! The JavaScript surface: thin classes over the library, used by the TypeScript of `web/package` only, which gives them the
//! face that people see. A class holds its contents by `Rc` and clones it before it waits, so that JavaScript may free it
//! meanwhile. Errors are JavaScript `Error`s with a `code`.

mod custom;
mod device;
mod graph;
mod languages;
mod model;
mod ops;
#[cfg(feature = "oracle")]
mod page;
mod plan;
mod probe;
mod settings;
mod state;
mod stream;

use crate::error::{Error, Result};
use crate::types::{Data, Tensor};
use js_sys::{Float32Array, Function, Promise, Reflect, Uint32Array};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;

thread_local! {
    static ON_PANIC: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// Sets what is called with the message of a panic. The module is of no use afterwards: promises that were waiting for it
/// never settle by themselves.
#[wasm_bindgen(js_name = onPanic)]
pub fn on_panic(callback: Function) {
    ON_PANIC.with(|slot| slot.replace(Some(callback)));
    std::panic::set_hook(Box::new(|info| {
        let message = info.to_string();
        let callback = ON_PANIC.with(|slot| slot.try_borrow().ok().and_then(|f| f.clone()));
        if let Some(f) = callback {
            let _ = f.call1(&JsValue::NULL, &message.into());
        }
    }));
}

/// A future that is driven through a pointer: the code that drives it is there once.
type Local<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

fn thrown(error: Error) -> JsValue {
    let thrown = js_sys::Error::new(&error.to_string());
    thrown.set_name("WgradError");
    // A plain new object takes any property.
    let _ = Reflect::set(&thrown, &"code".into(), &error.code().into());
    thrown.into()
}

fn promise<T: Into<JsValue>>(future: impl Future<Output = Result<T>> + 'static) -> Promise {
    settled(Box::pin(async move { future.await.map(Into::into) }))
}

fn settled(future: Local<'static, JsValue>) -> Promise {
    future_to_promise(async move { future.await.map_err(thrown) })
}

/// The elements as a typed array.
fn array(tensor: &Tensor) -> JsValue {
    match tensor.data() {
        Data::F32(v) => Float32Array::from(&v[..]).into(),
        Data::U32(v) => Uint32Array::from(&v[..]).into(),
    }
}

/// `{ shape, data }`.
fn shaped(tensor: &Tensor) -> JsValue {
    let found = js_sys::Object::new();
    let shape: Vec<u32> = tensor.shape().iter().map(|n| *n as u32).collect();
    let _ = Reflect::set(&found, &"shape".into(), &Uint32Array::from(&shape[..]).into());
    let _ = Reflect::set(&found, &"data".into(), &array(tensor));
    found.into()
}

/// The elements of a `Float32Array` or `Uint32Array`.
fn data(array: &JsValue) -> Result<Data> {
    if let Some(floats) = array.dyn_ref::<Float32Array>() {
        return Ok(Data::F32(floats.to_vec()));
    }
    match array.dyn_ref::<Uint32Array>() {
        Some(ints) => Ok(Data::U32(ints.to_vec())),
        None => Err(Error::argument("tensor", "expected a Float32Array or a Uint32Array")),
    }
}
