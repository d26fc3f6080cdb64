//! Who asked for a node.

use super::Graph;
use crate::error::Where;

/// Why a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The call asked for it.
    Forward,
    /// It is part of the call's gradient.
    Gradient,
    /// It is the call's result once more, for the gradient.
    Recomputed,
}

/// A line of the caller's source that asked for a node, by itself or through its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// File and line.
    pub place: Where,
    /// Why the node is there.
    pub part: Part,
}

impl Call {
    pub(crate) fn forward(place: Where) -> Call {
        Call { place, part: Part::Forward }
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = match self.part {
            Part::Forward => "",
            Part::Gradient => " (gradient)",
            Part::Recomputed => " (again)",
        };
        write!(f, "{}{part}", self.place)
    }
}

/// Restores the call that nodes were put down to before, also when building panics.
pub(crate) struct Calling<'g> {
    graph: &'g Graph,
    outer: Option<Call>,
}

impl Graph {
    /// Puts the nodes added while the result lives down to `call`.
    pub(crate) fn calling(&self, call: Call) -> Calling<'_> {
        let outer = self.borrow_mut().call.replace(call);
        Calling { graph: self, outer }
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.graph.inner.try_borrow_mut() {
            inner.call = self.outer;
        }
    }
}
