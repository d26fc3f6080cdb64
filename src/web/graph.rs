//! Graphs. JavaScript knows a variable by its number.

use super::{data, ops, thrown};
use crate::error::{Error, Result};
use crate::graph::{Value, Var};
use crate::types::{DType, Shape, Tensor, TensorType};
use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// A computation under construction. Throws at the operation that does not fit; the graph is of no use then.
#[wasm_bindgen]
#[derive(Default)]
pub struct Graph {
    pub(super) inner: Rc<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub graph: crate::Graph,
    vars: RefCell<Vec<Value>>,
}

impl Inner {
    pub fn var(&self, id: u32) -> Result<Var<'_>> {
        let value = self.vars.borrow().get(id as usize).copied();
        value.map(|value| Var::new(&self.graph, value)).ok_or_else(|| Error::argument("graph", "no such variable"))
    }

    pub fn vars(&self, ids: &[u32]) -> Result<Vec<Var<'_>>> {
        ids.iter().map(|id| self.var(*id)).collect()
    }

    /// Numbers, element types and shapes of new variables: id, 0 for f32 or 1 for u32, rank, dimensions, of each in turn.
    pub fn packed(&self, vars: &[Var<'_>]) -> Result<Vec<u32>> {
        if let Some(error) = self.graph.error() {
            return Err(error);
        }
        let mut out = Vec::new();
        for var in vars {
            let mut known = self.vars.borrow_mut();
            let ty = var.ty();
            out.extend([known.len() as u32, u32::from(ty.dtype == DType::U32), ty.shape.len() as u32]);
            out.extend(ty.shape.iter().map(|n| *n as u32));
            known.push(var.value);
        }
        Ok(out)
    }
}

fn typed(u32: bool, shape: &[u32]) -> TensorType {
    let shape: Shape = shape.iter().map(|n| *n as usize).collect::<Vec<_>>().into();
    if u32 { TensorType::u32(shape) } else { TensorType::f32(shape) }
}

#[wasm_bindgen]
impl Graph {
    /// An empty graph.
    #[wasm_bindgen(constructor)]
    pub fn new() -> Graph {
        Graph::default()
    }

    /// A tensor written before each run, or one that lives in a store.
    pub fn named(&self, state: bool, name: &str, u32: bool, shape: &[u32]) -> Result<Vec<u32>, JsValue> {
        let (graph, ty) = (&self.inner.graph, typed(u32, shape));
        let var = if state { graph.state(name, ty) } else { graph.input(name, ty) };
        self.inner.packed(&[var]).map_err(thrown)
    }

    /// A tensor known at build time.
    pub fn constant(&self, shape: &[u32], array: &JsValue) -> Result<Vec<u32>, JsValue> {
        let made = || {
            let tensor = Tensor::new(typed(false, shape).shape, data(array)?)?;
            self.inner.packed(&[self.inner.graph.constant(tensor)])
        };
        made().map_err(thrown)
    }

    /// Any operation of the table in `ops.rs`.
    pub fn apply(&self, op: &str, inputs: &[u32], numbers: &[f64], text: &str) -> Result<Vec<u32>, JsValue> {
        let made = || {
            let inputs = self.inner.vars(inputs)?;
            let vars = ops::call(&self.inner.graph, op, &inputs, &ops::Numbers(numbers), text)?;
            self.inner.packed(&vars)
        };
        made().map_err(thrown)
    }

    /// Gradients of a scalar; zeros where it does not depend on a variable.
    pub fn grad(&self, loss: u32, wrt: &[u32]) -> Result<Vec<u32>, JsValue> {
        let made = || {
            let (loss, wrt) = (self.inner.var(loss)?, self.inner.vars(wrt)?);
            let graph = &self.inner.graph;
            let zeros = |var: &Var<'_>| graph.full(var.shape(), 0.0);
            let all = graph.grad(loss, &wrt);
            let vars: Vec<_> = all.iter().zip(&wrt).map(|(g, v)| g.dense().unwrap_or_else(|| zeros(v))).collect();
            self.inner.packed(&vars)
        };
        made().map_err(thrown)
    }

    /// Writes a value into a state at the end of a run.
    pub fn assign(&self, state: u32, value: u32) -> Result<(), JsValue> {
        let made = || {
            self.inner.graph.assign(self.inner.var(state)?, self.inner.var(value)?);
            self.inner.packed(&[])
        };
        made().map(drop).map_err(thrown)
    }

    /// Lets every `assign` happen only where `ok` is not 0.
    pub fn gate(&self, ok: u32) -> Result<(), JsValue> {
        let made = || {
            self.inner.graph.gate(self.inner.var(ok)?);
            self.inner.packed(&[])
        };
        made().map(drop).map_err(thrown)
    }

    /// The nodes, a line each.
    #[wasm_bindgen(js_name = toString)]
    pub fn print(&self) -> String {
        self.inner.graph.to_string()
    }
}
