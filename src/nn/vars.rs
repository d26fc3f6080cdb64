//! The parameters inside a graph.

use super::params::Params;
use crate::error::Error;
use crate::graph::{Graph, Var};
use rustc_hash::FxHashMap;
use std::rc::Rc;

impl Params {
    /// Declares the flat states in a graph and gives every parameter as a view of its state.
    pub fn vars<'g>(&self, graph: &'g Graph) -> ParamVars<'g> {
        if let Some(error) = self.error() {
            graph.fail(error.clone());
        }
        let mut views: Vec<(usize, View<'g>)> = Vec::with_capacity(self.len());
        for shard in self.shards() {
            let leaf = graph.state(&shard.state, shard.ty());
            // Trained parameters belong to the optimizer.
            let state = shard.group.is_none().then_some(leaf);
            for s in &shard.segments {
                let shape = self.nth(s.param).map(|p| p.shape().clone()).unwrap_or_default();
                views.push((s.param, View { var: leaf.slice(0, s.offset, s.len).reshape(shape), state }));
            }
        }
        // In the order the parameters were added.
        views.sort_by_key(|(param, _)| *param);
        let views = views.into_iter().map(|(_, view)| view);
        ParamVars::from_views(graph, self.names().map(str::to_owned).zip(views).collect())
    }
}

/// A parameter, and for a buffer the flat state that holds it.
struct View<'g> {
    var: Var<'g>,
    state: Option<Var<'g>>,
}

struct Views<'g> {
    index: FxHashMap<String, usize>,
    views: Vec<(String, View<'g>)>,
}

/// The parameters inside a graph. Cloning gives another handle to the same variables.
#[derive(Clone)]
pub struct ParamVars<'g> {
    graph: &'g Graph,
    all: Rc<Views<'g>>,
    prefix: String,
}

impl<'g> ParamVars<'g> {
    /// Variables under names of one's own choice, for a model whose parameters live elsewhere than in [`Params`].
    pub fn from_vars(graph: &'g Graph, vars: impl IntoIterator<Item = (String, Var<'g>)>) -> Self {
        let views = vars.into_iter().map(|(name, var)| (name, View { var, state: Some(var) }));
        Self::from_views(graph, views.collect())
    }

    fn from_views(graph: &'g Graph, views: Vec<(String, View<'g>)>) -> Self {
        let index = views.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        ParamVars { graph, all: Rc::new(Views { index, views }), prefix: String::new() }
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// A parameter; the graph fails if there is none of this name.
    #[track_caller]
    pub fn get(&self, name: &str) -> Var<'g> {
        let name = format!("{}{name}", self.prefix);
        let view = self.all.index.get(&name).and_then(|i| self.all.views.get(*i));
        match view {
            Some((_, view)) => view.var,
            None => {
                let message = "the model's parameters have no such name".to_owned();
                self.graph.fail(Error::Name { kind: "parameter", name, message });
                self.graph.full([], 0.0)
            }
        }
    }

    /// Writes a value (of the same shape) into a [buffer](super::Param::buffer) at the end of the run, as
    /// [`Graph::assign`] does: such as the running statistics of a batch norm. The graph fails if the parameter is trained,
    /// or written twice.
    #[track_caller]
    pub fn assign(&self, name: &str, value: Var<'g>) {
        let old = self.get(name);
        let name = format!("{}{name}", self.prefix);
        let state = self.all.index.get(&name).and_then(|i| self.all.views.get(*i)?.1.state);
        let message = match state {
            _ if self.graph.error().is_some() => return,
            None => "it is trained, so the optimizer alone writes it; make it a buffer".to_owned(),
            Some(_) if value.ty() != old.ty() => format!("it is {}, the value {}", old.ty(), value.ty()),
            // A flat state is a little longer than the buffer it holds.
            Some(state) if state.shape() != old.shape() => {
                let n = old.shape().numel();
                let flat = value.reshape([n]).pad(0, 0, state.shape().numel() - n);
                return self.graph.assign(state, flat);
            }
            Some(state) => return self.graph.assign(state, value),
        };
        self.graph.fail(Error::Name { kind: "parameter", name, message });
    }

    /// The parameter that was added as number `index`.
    pub(crate) fn nth(&self, index: usize) -> Option<Var<'g>> {
        self.all.views.get(index).map(|(_, view)| view.var)
    }

    /// The parameters below `prefix`: `scope("layers.0").get("weight")` is `get("layers.0.weight")`.
    pub fn scope(&self, prefix: &str) -> ParamVars<'g> {
        ParamVars { prefix: format!("{}{prefix}.", self.prefix), ..self.clone() }
    }

    /// All names, whatever the scope.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.views.iter().map(|(name, _)| name.as_str())
    }
}
