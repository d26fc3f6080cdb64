//! From a fixture to a graph with gradients, and its run: what every module function starts with.
#![allow(dead_code)] // What some modules need, the tables may not use yet.

use super::compare::{Outcome, Set, matching, permute};
use super::fixture::Case;
use std::cell::RefCell;
use wgrad::graph::Gradient;
use wgrad::{DType, Device, Error, Feed, Graph, Result, Store, Tensor, TensorType, Var};

/// A graph under construction for one case. Fixture inputs are graph inputs under their names (`x` for `input.x`),
/// parameters are states under their state_dict names, so a layer that declares its parameters itself meets them by
/// name.
pub struct Build<'g> {
    pub case: &'g Case,
    pub graph: &'g Graph,
    outputs: RefCell<Vec<(String, Var<'g>)>>,
    seeds: RefCell<Vec<Var<'g>>>,
    sets: RefCell<Vec<Set>>,
    buffers: RefCell<Vec<String>>,
}

impl<'g> Build<'g> {
    /// The input `input.<name>`.
    pub fn input(&self, name: &str) -> Result<Var<'g>> {
        let tensor = self.case.tensor(&format!("input.{name}"))?;
        Ok(self.graph.input(name, tensor.ty()))
    }

    /// The input `input.<name>`, if the case has it.
    pub fn maybe_input(&self, name: &str) -> Option<Var<'g>> {
        self.input(name).ok()
    }

    /// The parameter `param.<name>`.
    pub fn param(&self, name: &str) -> Result<Var<'g>> {
        let tensor = self.case.tensor(&format!("param.{name}"))?;
        Ok(self.graph.state(name, tensor.ty()))
    }

    /// What the module computes for `output.<name>`. A scalar may stand for `[1]`.
    pub fn output(&self, name: &str, var: Var<'g>) {
        let key = format!("output.{name}");
        let one = self.case.tensors.get(&key).is_some_and(|t| t.shape()[..] == [1]);
        let var = if one && var.rank() == 0 { var.reshape([1]) } else { var };
        self.outputs.borrow_mut().push((name.to_owned(), var));
    }

    /// Outputs that are a selection in any order: `by` holds the selected numbers `[.., k]`, `with` what goes with
    /// them. Their cotangents are put into our order before the gradients are compared.
    pub fn set(&self, by: &str, with: &[&str]) {
        self.sets
            .borrow_mut()
            .push(Set { by: format!("output.{by}"), with: with.iter().map(|w| format!("output.{w}")).collect() });
    }

    /// A scalar whose gradient the fixture has without naming a cotangent: it is 1.
    pub fn backward(&self, loss: Var<'g>) {
        self.seeds.borrow_mut().push(loss);
    }

    /// State entries that PyTorch does not train (buffers): their gradient is not looked at.
    pub fn buffers(&self, names: &[&str]) {
        let names = names.iter().map(|n| (*n).to_owned());
        self.buffers.borrow_mut().extend(names);
    }

    /// Outputs, then gradients of `sum(output * cotangent)` to everything that has one in the fixture, and to the
    /// float parameters that have none: those must come out as zero.
    fn named(&self) -> Vec<(String, Var<'g>)> {
        let (case, graph) = (self.case, self.graph);
        let mut named = Vec::new();
        let mut seeds = Vec::new();
        for (name, var) in self.outputs.borrow().iter() {
            named.push((format!("output.{name}"), *var));
            let key = format!("cotangent.{name}");
            if let (Some(c), DType::F32) = (case.tensors.get(&key), var.dtype()) {
                seeds.push((*var, graph.input(&key, c.ty())));
            }
        }
        for loss in self.seeds.borrow().iter() {
            seeds.push((*loss, graph.full(loss.shape(), 1.0)));
        }
        let mut keys = Vec::new();
        let mut wrt = Vec::new();
        for (key, tensor) in case.tensors.iter().filter(|(_, t)| t.ty().dtype == DType::F32) {
            if let Some(name) = key.strip_prefix("param.") {
                let buffer = self.buffers.borrow().iter().any(|b| b == name);
                if !buffer {
                    wrt.push(graph.state(name, tensor.ty()));
                    keys.push(format!("grad.{key}"));
                }
            } else if let Some(name) = key.strip_prefix("input.") {
                // Inputs without a gradient in the fixture asked for none.
                if case.has(&format!("grad.{key}")) {
                    wrt.push(graph.input(name, tensor.ty()));
                    keys.push(format!("grad.{key}"));
                }
            }
        }
        for (key, grad) in keys.into_iter().zip(graph.vjp(&seeds, &wrt)) {
            if !matches!(grad, Gradient::None) {
                named.extend(grad.dense().map(|g| (key, g)));
            }
        }
        named
    }
}

/// A store with all parameters of a case.
pub fn store(case: &Case, device: &Device) -> Result<Store> {
    let store = Store::new(device);
    for name in case.names("param.") {
        store.set(name, case.tensor(&format!("param.{name}"))?)?;
    }
    Ok(store)
}

/// Builds a case's graph with `f`, runs it and reads all outputs and gradients.
pub fn run(case: &Case, device: &Device, f: impl for<'g> FnOnce(&Build<'g>) -> Result<()>) -> Result<Outcome> {
    let graph = Graph::new();
    let build = Build {
        case,
        graph: &graph,
        outputs: RefCell::default(),
        seeds: RefCell::default(),
        sets: RefCell::default(),
        buffers: RefCell::default(),
    };
    f(&build)?;
    let named = build.named();
    if let Some(error) = graph.error() {
        return Err(error);
    }
    let outputs: Vec<(&str, Var<'_>)> = named.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let plan = device.compile_blocking(&graph, &outputs)?;
    let store = store(case, device)?;
    let once = |cotangents: &[(String, Tensor)]| {
        let mut feed = Feed::new().store(&store);
        for (key, tensor) in &case.tensors {
            match key.strip_prefix("input.") {
                Some(name) => feed = feed.input(name, tensor),
                None if key.starts_with("cotangent.") => feed = feed.input(key, tensor),
                None => {}
            }
        }
        // The last one given counts.
        for (name, tensor) in cotangents {
            feed = feed.input(name, tensor);
        }
        plan.run(&feed)
    };
    once(&[])?;
    let sets = build.sets.take();
    let mut cotangents = Vec::new();
    for set in &sets {
        let ours = plan.read_blocking(&set.by)?;
        let order = matching(&ours, case.tensor(&set.by)?);
        for key in &set.with {
            let key = key.replacen("output.", "cotangent.", 1);
            if let Some(c) = case.tensors.get(&key) {
                cotangents.push((key, permute(c, &order, &ours)?));
            }
        }
    }
    if !cotangents.is_empty() {
        once(&cotangents)?;
    }
    let mut outcome = Outcome { sets, ..Outcome::default() };
    for (key, _) in &named {
        outcome.add(key, plan.read_blocking(key)?);
    }
    zeros(case, &mut outcome)?;
    Ok(outcome)
}

/// An absent gradient is one of zeros.
pub fn zeros(case: &Case, outcome: &mut Outcome) -> Result<()> {
    for (key, want) in case.tensors.iter().filter(|(k, _)| k.starts_with("grad.")) {
        if !outcome.tensors.contains_key(key) {
            let ty = TensorType::f32(want.shape());
            outcome.add(key, Tensor::zeros(&ty));
        }
    }
    Ok(())
}

/// A module option this test does not know, or cannot do.
pub fn unsupported(case: &Case, what: &str) -> Error {
    Error::argument(case.name.clone(), format!("{what} is not supported"))
}
