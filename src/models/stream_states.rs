//! The states of a stream, called by short names: where they are in a graph and in a store.

use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::types::TensorType;

/// Name of a state in a store.
pub(super) fn named(name: &str) -> String {
    format!("stream.{name}")
}

/// A store with all states at zero.
pub(super) fn zeros(store: &Store, states: &[(String, TensorType)]) -> Result<()> {
    states.iter().try_for_each(|(name, ty)| store.set_zeros(&named(name), ty))
}

/// The states of a stream inside a graph.
#[derive(Clone, Copy)]
pub(super) struct StreamStates<'g, 'a> {
    graph: &'g Graph,
    all: &'a [(String, TensorType)],
}

impl<'g, 'a> StreamStates<'g, 'a> {
    pub fn new(graph: &'g Graph, all: &'a [(String, TensorType)]) -> Self {
        StreamStates { graph, all }
    }

    /// A state that only some configurations have.
    pub fn find(&self, name: &str) -> Option<Var<'g>> {
        let (name, ty) = self.all.iter().find(|(n, _)| n == name)?;
        Some(self.graph.state(&named(name), ty.clone()))
    }

    /// A state that every stream of the model has.
    pub fn get(&self, name: &str) -> Var<'g> {
        self.find(name).unwrap_or_else(|| {
            let message = "the stream has no such state".to_owned();
            self.graph.fail(Error::Name { kind: "state", name: name.to_owned(), message });
            self.graph.full([], 0.0)
        })
    }
}
