//! The graph: an append-only list of nodes whose order is the tape.
//!
//! ```
//! use wgrad::{Graph, TensorType};
//!
//! let graph = Graph::new();
//! let x = graph.input("x", TensorType::f32([2, 3]));
//! let loss = x.softmax(1).square().sum_all();
//! let gradients = graph.grad(loss, &[x]); // more nodes of the same graph
//! assert!(graph.error().is_none() && gradients[0].dense().is_some());
//!
//! // What cannot be is kept with the caller's file and line, and returned when the graph is compiled.
//! x.matmul(x);
//! assert!(graph.error().is_some_and(|e| e.to_string().contains("matmul")));
//! ```

mod call;
mod grad;
mod mode;
mod op;
mod var;

pub use call::{Call, Part};
pub(crate) use grad::SharedOp;
pub use grad::{Cotangent, Factors, Gradient, Rows, Vjp};
pub use mode::Mode;
pub use op::Op;
pub(crate) use op::cpu_twin;
pub use var::Var;

use crate::error::{Error, Where};
use crate::types::{Tensor, TensorType};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Number of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// One output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    /// The node.
    pub node: NodeId,
    /// Which of its outputs.
    pub output: u32,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Written before each run.
    Input(Arc<str>),
    /// Lives in a store between runs.
    State(Arc<str>),
    /// Known at build time.
    Constant(Arc<Tensor>),
    /// Computed.
    Op(Arc<dyn Op>),
}

/// A node of the graph.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub kind: Kind,
    pub inputs: Vec<Value>,
    pub types: Vec<TensorType>,
    /// Recomputed segment the node belongs to, if any.
    pub segment: Option<u32>,
    /// 0 for original nodes; copies made for recomputation carry their own number, so that they are not merged back.
    pub copy: u32,
    /// Who asked for it.
    pub call: Call,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub nodes: Vec<Node>,
    pub error: Option<Error>,
    pub segment: Option<u32>,
    pub segments: u32,
    pub copies: u32,
    pub copy: u32,
    pub assigns: Vec<(Value, Value)>,
    pub gate: Option<Value>,
    /// Where the composed operation under construction was called.
    pub place: Option<Where>,
    /// The call whose gradient is under construction.
    pub call: Option<Call>,
    pub names: rustc_hash::FxHashMap<(bool, Arc<str>), Value>,
}

impl Inner {
    /// Whether two values are the same by at most `depth` equal operations.
    fn alike(&self, a: Value, b: Value, depth: usize) -> bool {
        let (x, y) = (&self.nodes[a.node.0 as usize], &self.nodes[b.node.0 as usize]);
        let (Kind::Op(p), Kind::Op(q)) = (&x.kind, &y.kind) else { return a == b };
        let inputs = || {
            x.inputs.len() == y.inputs.len()
                && x.inputs.iter().zip(&y.inputs).all(|(a, b)| self.alike(*a, *b, depth - 1))
        };
        a == b
            || (depth > 0
                && a.output == b.output
                && x.copy == y.copy
                && !p.unmergeable()
                && p.name() == q.name()
                && format!("{p:?}") == format!("{q:?}")
                && inputs())
    }
}

/// A computation under construction. Cloning gives another handle to the same graph.
///
/// Shapes and element types are checked when a node is added. The first error is kept with the operation's name, the
/// shapes and the caller's file and line; later operations on it are inert, and compiling returns it.
#[derive(Clone, Default)]
pub struct Graph {
    inner: Rc<RefCell<Inner>>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn borrow(&self) -> std::cell::Ref<'_, Inner> {
        self.inner.borrow()
    }

    pub(crate) fn borrow_mut(&self) -> std::cell::RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    /// The first error, if any.
    pub fn error(&self) -> Option<Error> {
        self.borrow().error.clone()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.borrow().nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A tensor written before each run. The same name with the same type gives the same variable.
    #[track_caller]
    pub fn input(&self, name: &str, ty: TensorType) -> Var<'_> {
        self.named(name, ty, false)
    }

    /// A tensor that lives in a store between runs: parameters, moments, memories.
    #[track_caller]
    pub fn state(&self, name: &str, ty: TensorType) -> Var<'_> {
        self.named(name, ty, true)
    }

    #[track_caller]
    fn named(&self, name: &str, ty: TensorType, state: bool) -> Var<'_> {
        let name: Arc<str> = name.into();
        let known = self.borrow().names.get(&(state, name.clone())).copied();
        if let Some(value) = known {
            let var = Var::new(self, value);
            if var.ty() != ty {
                let message = format!("already declared as {}, now as {ty}; use one type", var.ty());
                let kind = if state { "state" } else { "input" };
                self.fail(Error::Name { kind, name: name.to_string(), message });
            }
            return var;
        }
        let kind = if state { Kind::State(name.clone()) } else { Kind::Input(name.clone()) };
        let value = self.leaf(kind, ty);
        self.borrow_mut().names.insert((state, name), value);
        Var::new(self, value)
    }

    /// A tensor known at build time.
    #[track_caller]
    pub fn constant(&self, tensor: Tensor) -> Var<'_> {
        let ty = tensor.ty();
        Var::new(self, self.leaf(Kind::Constant(Arc::new(tensor)), ty))
    }

    #[track_caller]
    fn leaf(&self, kind: Kind, ty: TensorType) -> Value {
        let location = self.borrow().place.unwrap_or(Where::caller());
        let what = || match &kind {
            Kind::Input(name) => format!("input {name} at {location}"),
            Kind::State(name) => format!("state {name} at {location}"),
            Kind::Constant(_) | Kind::Op(_) => format!("a constant at {location}"),
        };
        let fits = ty.check_size(&what);
        // What is built on a refused one must not multiply its extents.
        let ty = if fits.is_ok() { ty } else { TensorType::f32([]) };
        fits.unwrap_or_else(|error| self.fail(error));
        let mut g = self.borrow_mut();
        let call = g.call.unwrap_or(Call::forward(location));
        g.nodes.push(Node { kind, inputs: vec![], types: vec![ty], segment: None, copy: 0, call });
        Value { node: NodeId(g.nodes.len() as u32 - 1), output: 0 }
    }

    /// Adds an operation. This is how operations defined outside the library join a graph.
    #[track_caller]
    pub fn apply<'g>(&'g self, op: impl Op, inputs: &[Var<'g>]) -> Vec<Var<'g>> {
        self.apply_at(Arc::new(op), inputs, Where::caller())
    }

    pub(crate) fn apply_at<'g>(&'g self, op: Arc<dyn Op>, inputs: &[Var<'g>], location: Where) -> Vec<Var<'g>> {
        let outputs = op.outputs();
        let location = self.borrow().place.unwrap_or(location);
        if self.borrow().error.is_some() {
            return self.inert(outputs);
        }
        if !self.owns(op.name(), inputs, location) {
            return self.inert(outputs);
        }
        let types: Vec<TensorType> = inputs.iter().map(|v| v.ty()).collect();
        match op.infer(&types) {
            Ok(out) => {
                let what = || format!("the result of {} at {location}", op.name());
                if let Some(error) = out.iter().find_map(|t| t.check_size(&what).err()) {
                    self.fail(error);
                    return self.inert(outputs);
                }
                let mut g = self.borrow_mut();
                let (segment, copy) = (g.segment, g.copy);
                let call = g.call.unwrap_or(Call::forward(location));
                let inputs = inputs.iter().map(|v| v.value).collect();
                let n = out.len() as u32;
                g.nodes.push(Node { kind: Kind::Op(op), inputs, types: out, segment, copy, call });
                let node = NodeId(g.nodes.len() as u32 - 1);
                (0..n).map(|output| Var::new(self, Value { node, output })).collect()
            }
            Err(refusal) => {
                let shapes = types.into_iter().map(|t| t.shape).collect();
                self.fail(refusal.at(op.name(), shapes, location));
                self.inert(outputs)
            }
        }
    }

    /// Whether both handles are of one graph.
    pub(crate) fn same(&self, other: &Graph) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether all variables are of this graph; keeps an error if not.
    pub(crate) fn owns(&self, what: &str, vars: &[Var<'_>], location: Where) -> bool {
        let own = vars.iter().all(|v| v.graph.same(self));
        if !own {
            let _at = self.at(location);
            self.fail(Error::argument(
                what,
                "a variable belongs to another graph; build each computation in one graph",
            ));
        }
        own
    }

    /// Variables that stand in after an error, so that building goes on to its end.
    fn inert(&self, n: usize) -> Vec<Var<'_>> {
        let value = self.leaf(Kind::Constant(Arc::new(Tensor::scalar(0.0))), TensorType::f32([]));
        vec![Var::new(self, value); n]
    }

    /// The caller's line that made a variable of this graph.
    pub(crate) fn place(&self, var: Var<'_>) -> Where {
        self.borrow().nodes[var.value.node.0 as usize].call.place
    }

    /// Keeps an error with the caller's place, unless there is one already.
    #[track_caller]
    pub fn fail(&self, error: Error) {
        let mut inner = self.borrow_mut();
        let location = inner.place.unwrap_or(Where::caller());
        inner.error.get_or_insert_with(|| error.located(location));
    }

    /// While the result lives, errors name `location`, the place that called an operation composed of others, whatever
    /// functions the others are called by. The outermost counts.
    pub(crate) fn at(&self, location: Where) -> At<'_> {
        let mut inner = self.borrow_mut();
        let outer = inner.place;
        inner.place = outer.or(Some(location));
        At { graph: self, outer }
    }

    /// Writes `value` into `state` at the end of the run. Everything inside the run reads the old value.
    #[track_caller]
    pub fn assign<'g>(&'g self, state: Var<'g>, value: Var<'g>) {
        let location = Where::caller();
        if self.borrow().error.is_some() || !self.owns("assign", &[state, value], location) {
            return;
        }
        let is_state = matches!(self.borrow().nodes[state.value.node.0 as usize].kind, Kind::State(_));
        let known = self.borrow().assigns.iter().any(|(s, _)| *s == state.value);
        let message = if !is_state {
            "the target is no state; make it with Graph::state".to_owned()
        } else if state.ty() != value.ty() {
            format!("the state is {}, the value {}; they must be equal", state.ty(), value.ty())
        } else if known {
            "this state is assigned twice in one graph; assign once".to_owned()
        } else {
            self.borrow_mut().assigns.push((state.value, value.value));
            return;
        };
        self.fail(Error::Shape { op: "assign".into(), message, shapes: vec![state.shape(), value.shape()], location });
    }

    /// Lets every [`assign`](Self::assign) happen only if `ok` (u32 scalar) is not 0 at the end of the run, so that a
    /// bad step changes nothing.
    #[track_caller]
    pub fn gate<'g>(&'g self, ok: Var<'g>) {
        let location = Where::caller();
        if self.borrow().error.is_some() || !self.owns("gate", &[ok], location) {
            return;
        }
        let message = if ok.ty() != TensorType::u32([]) {
            format!("expected u32[], got {}", ok.ty())
        } else if self.borrow().gate.is_some_and(|g| g != ok.value) {
            "the graph has a gate already; join conditions with and".to_owned()
        } else {
            self.borrow_mut().gate = Some(ok.value);
            return;
        };
        self.fail(Error::Shape { op: "gate".into(), message, shapes: vec![ok.shape()], location });
    }

    /// Runs `f` as a segment whose values are recomputed in the backward pass instead of kept: less memory, more work.
    /// Segments do not nest; an inner one is part of the outer.
    #[track_caller]
    pub fn recompute<R>(&self, f: impl FnOnce() -> R) -> R {
        let segment = {
            let mut g = self.borrow_mut();
            if g.segment.is_none() {
                g.segments += 1;
            }
            g.segment.unwrap_or(g.segments)
        };
        let _inside = self.in_segment(Some(segment));
        f()
    }

    /// Puts the nodes added while the result lives into a segment, or into none.
    pub(crate) fn in_segment(&self, segment: Option<u32>) -> InSegment<'_> {
        let outer = std::mem::replace(&mut self.borrow_mut().segment, segment);
        InSegment { graph: self, outer }
    }

    pub(crate) fn type_of(&self, value: Value) -> TensorType {
        self.borrow().nodes[value.node.0 as usize].types[value.output as usize].clone()
    }
}

/// Restores the segment that was current before, also when building panics.
pub(crate) struct InSegment<'g> {
    graph: &'g Graph,
    outer: Option<u32>,
}

impl Drop for InSegment<'_> {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.graph.inner.try_borrow_mut() {
            inner.segment = self.outer;
        }
    }
}

/// Restores the place that errors named before.
pub(crate) struct At<'g> {
    graph: &'g Graph,
    outer: Option<Where>,
}

impl Drop for At<'_> {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.graph.inner.try_borrow_mut() {
            inner.place = self.outer;
        }
    }
}

impl std::fmt::Display for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, node) in self.borrow().nodes.iter().enumerate() {
            let types = node.types.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
            let inputs =
                node.inputs.iter().map(|v| format!("%{}.{}", v.node.0, v.output)).collect::<Vec<_>>().join(" ");
            match &node.kind {
                Kind::Input(name) => writeln!(f, "%{i} = input {name}: {types}")?,
                Kind::State(name) => writeln!(f, "%{i} = state {name}: {types}")?,
                Kind::Constant(_) => writeln!(f, "%{i} = constant: {types}")?,
                Kind::Op(op) => writeln!(f, "%{i} = {} {inputs}: {types}", op.name())?,
            }
        }
        Ok(())
    }
}
