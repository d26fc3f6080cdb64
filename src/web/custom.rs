//! Operations with a kernel of the page's own.

use super::graph::Graph;
use super::settings::Settings;
use super::thrown;
use crate::error::{Error, Result, Where};
use crate::graph::{Cotangent, Kind, Node, Value, Var, Vjp};
use crate::ops::custom::CustomOp;
use crate::types::{DType, Shape};
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

/// A function of variables, as a graph computes it: its inputs stand for the variables in the order in which they were made.
struct Piece {
    nodes: Vec<Node>,
    results: Vec<Option<Value>>,
}

impl Piece {
    /// What a graph computes for `results`, which are numbers of its variables, -1 for none, from so many inputs.
    fn new(graph: &Graph, results: &[i32], inputs: usize) -> Result<Piece> {
        let inner = &graph.inner;
        if let Some(error) = inner.graph.error() {
            return Err(error);
        }
        let result = |id: &i32| u32::try_from(*id).ok().map(|id| Ok(inner.var(id)?.value)).transpose();
        let results = results.iter().map(result).collect::<Result<_>>()?;
        let nodes = inner.graph.borrow().nodes.clone();
        let has = |kind: fn(&Kind) -> bool| nodes.iter().filter(|node| kind(&node.kind)).count();
        if has(|kind| matches!(kind, Kind::State(_))) > 0 || has(|kind| matches!(kind, Kind::Input(_))) != inputs {
            return Err(Error::argument("custom", "a function of variables has no inputs or states of its own"));
        }
        Ok(Piece { nodes, results })
    }

    /// Computes it from other variables, maybe of another graph.
    fn of<'g>(&self, graph: &'g crate::Graph, inputs: &[Var<'g>]) -> Vec<Option<Var<'g>>> {
        let mut inputs = inputs.iter();
        let mut made: Vec<Vec<Var<'g>>> = Vec::with_capacity(self.nodes.len());
        let find = |made: &[Vec<Var<'g>>], value: &Value| made[value.node.0 as usize][value.output as usize];
        for node in &self.nodes {
            made.push(match &node.kind {
                Kind::Constant(tensor) => vec![graph.constant((**tensor).clone())],
                Kind::Op(op) => {
                    let inputs: Vec<Var<'g>> = node.inputs.iter().map(|value| find(&made, value)).collect();
                    graph.apply_at(op.clone(), &inputs, Where::caller())
                }
                Kind::Input(_) | Kind::State(_) => inputs.next().copied().into_iter().collect(),
            });
        }
        self.results.iter().map(|value| value.as_ref().map(|value| find(&made, value))).collect()
    }

    /// The same as a gradient: of inputs, outputs and cotangents of the outputs, absent ones being zero.
    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let zero = |out: &Var<'g>| cx.graph.full(out.shape(), 0.0);
        let given = cx.cotangents.iter().zip(&cx.outputs).map(|(c, out)| c.unwrap_or_else(|| zero(out)));
        let all: Vec<Var<'g>> = cx.inputs.iter().chain(&cx.outputs).copied().chain(given).collect();
        cx.dense(self.of(cx.graph, &all))
    }
}

/// A name that lasts as long as the page. There are as many as kernels and constants are named.
fn lasting(name: String) -> &'static str {
    thread_local! {
        static NAMES: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }
    NAMES.with_borrow_mut(|names| {
        let known = names.iter().find(|known| **known == name).copied();
        known.unwrap_or_else(|| {
            let name: &'static str = name.leak();
            names.push(name);
            name
        })
    })
}

fn dtypes(words: Vec<usize>) -> Vec<DType> {
    words.into_iter().map(|word| if word == 1 { DType::U32 } else { DType::F32 }).collect()
}

/// An operation for one use of it, from JSON: all that depends on shapes is known by then.
fn described(spec: &str, gradient: impl FnOnce(usize) -> Result<Option<Piece>>) -> Result<CustomOp> {
    let mut s = Settings::parse("custom", spec)?;
    let name = lasting(s.need("name")?);
    // Sizes of each output, with its rank before them.
    let (mut packed, mut shapes) = (s.need::<Vec<usize>>("shapes")?.into_iter(), Vec::<Shape>::new());
    while let Some(rank) = packed.next() {
        shapes.push(packed.by_ref().take(rank).collect::<Vec<_>>().into());
    }
    let count = shapes.len();
    let workgroups: usize = s.need("workgroups")?;
    let mut builder = CustomOp::builder(name, s.need::<String>("wgsl")?)
        .inputs(dtypes(s.need("inputs")?))
        .outputs(dtypes(s.need("outputs")?))
        .shapes(move |_| Ok(shapes.clone()))
        .workgroups(move |_, _| workgroups);
    let values: Vec<f64> = s.get("values", Vec::new())?;
    for (constant, value) in s.get("constants", Vec::<String>::new())?.into_iter().zip(values) {
        builder = builder.constant(lasting(constant), value);
    }
    if let Some(words) = s.get::<Option<Vec<usize>>>("uniform", None)? {
        let words: Vec<u32> = words.into_iter().map(|word| word as u32).collect();
        builder = builder.uniform(move |_, _| words.clone());
    }
    if s.get("stepAndSeed", false)? {
        builder = builder.step_and_seed();
    }
    if let Some(piece) = gradient(count)? {
        builder = builder.vjp(move |cx| piece.vjp(cx));
    }
    s.finish()?;
    builder.build()
}

#[wasm_bindgen]
impl Graph {
    /// An operation with a kernel of the page's own. The gradient is a graph that computes `results`, cotangents of the inputs,
    /// from its inputs: the operation's inputs, outputs, and cotangents of the outputs.
    pub fn custom(
        &self,
        inputs: &[u32],
        spec: &str,
        gradient: Option<Graph>,
        results: &[i32],
    ) -> Result<Vec<u32>, JsValue> {
        let made = || {
            let op = described(spec, |outputs| {
                let known = inputs.len() + 2 * outputs;
                gradient.map(|graph| Piece::new(&graph, results, known)).transpose()
            })?;
            self.inner.packed(&self.inner.graph.apply(op, &self.inner.vars(inputs)?))
        };
        made().map_err(thrown)
    }
}
