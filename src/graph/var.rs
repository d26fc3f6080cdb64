//! Handles to values of a graph.

use super::{Graph, Op, Value};
use crate::error::Where;
use crate::types::{DType, Shape, TensorType};
use std::sync::Arc;

/// A value of a graph: a `Copy` handle, so that model code reads like maths. Operations are methods, defined in
/// [`crate::ops`] one file each. They return no `Result`: the graph keeps the first error, and compiling returns it.
#[derive(Clone, Copy)]
pub struct Var<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) value: Value,
}

impl<'g> Var<'g> {
    pub(crate) fn new(graph: &'g Graph, value: Value) -> Self {
        Var { graph, value }
    }

    /// The graph it belongs to.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Element type and shape.
    pub fn ty(&self) -> TensorType {
        self.graph.type_of(self.value)
    }

    /// Shape.
    pub fn shape(&self) -> Shape {
        self.ty().shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.ty().dtype
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.ty().shape.len()
    }

    /// Extent of dimension `axis`, counted from the end if negative; 1 if there is no such dimension.
    pub fn dim(&self, axis: isize) -> usize {
        let shape = self.shape();
        let i = if axis < 0 { axis + shape.len() as isize } else { axis };
        usize::try_from(i).ok().and_then(|i| shape.get(i).copied()).unwrap_or(1)
    }

    /// Whether both are computed alike, a few operations deep: the planner merges them.
    pub(crate) fn alike(self, other: Var<'g>) -> bool {
        self.graph.same(other.graph) && self.graph.borrow().alike(self.value, other.value, 4)
    }

    /// Applies an operation with one output.
    #[track_caller]
    pub(crate) fn op(self, op: impl Op, others: &[Var<'g>]) -> Var<'g> {
        let mut inputs = vec![self];
        inputs.extend_from_slice(others);
        self.graph.apply_at(Arc::new(op), &inputs, Where::caller())[0]
    }
}

impl std::fmt::Debug for Var<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{}.{}: {}", self.value.node.0, self.value.output, self.ty())
    }
}
