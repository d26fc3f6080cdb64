//! Reverse mode: walks the tape backwards and appends ordinary nodes.

use super::{Call, Graph, Kind, NodeId, Part, Value, Var};
use crate::error::{Error, Where};
use crate::types::{DType, TensorType};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// A gradient that is zero outside some rows: hit i adds a row of `values` to row `indices[i]`; rows may repeat.
#[derive(Clone, Copy)]
pub struct Rows<'g> {
    /// Row numbers, u32 `[hits]`; one that is not below `rows` adds nothing.
    pub indices: Var<'g>,
    /// What is added, `[count, width]`.
    pub values: Var<'g>,
    /// Rows of the whole table.
    pub rows: usize,
    /// Without, hit i adds `values[i]`, and there are as many hits as values.
    pub factors: Option<Factors<'g>>,
}

/// Hits that share values: hit i adds `weights[i] values[i / per]`. So the gradient of a weighted sum of `per` rows is
/// told without a row per hit.
#[derive(Clone, Copy)]
pub struct Factors<'g> {
    /// f32 `[hits]`.
    pub weights: Var<'g>,
    /// Hits that each row of values serves.
    pub per: usize,
}

impl<'g> Rows<'g> {
    /// One row of `values` (f32 `[hits, width]`) for each of `indices` (u32 `[hits]`).
    pub fn new(indices: Var<'g>, values: Var<'g>, rows: usize) -> Rows<'g> {
        Rows { indices, values, rows, factors: None }
    }

    /// The hits of several uses of one table side by side; `None` if there is none. Uses whose rows of values serve
    /// different numbers of hits get a row of values for each hit.
    pub fn concat(all: &[Rows<'g>]) -> Option<Rows<'g>> {
        let (first, others) = all.split_first()?;
        if others.is_empty() {
            return Some(*first);
        }
        let per = |r: &Rows<'g>| r.factors.map_or(1, |f| f.per);
        let same = others.iter().all(|r| per(r) == per(first));
        let values: Vec<Var<'g>> = all.iter().map(|r| if same { r.values } else { r.repeated() }).collect();
        let ones = |r: &Rows<'g>| r.indices.graph().full(r.indices.shape(), 1.0);
        let weights: Vec<Var<'g>> = all.iter().map(|r| r.factors.map_or_else(|| ones(r), |f| f.weights)).collect();
        let indices: Vec<Var<'g>> = all.iter().map(|r| r.indices).collect();
        let joined = |vars: &[Var<'g>]| vars[0].concat(&vars[1..], 0);
        let factors = all
            .iter()
            .any(|r| r.factors.is_some())
            .then(|| Factors { weights: joined(&weights), per: if same { per(first) } else { 1 } });
        Some(Rows { indices: joined(&indices), values: joined(&values), rows: first.rows, factors })
    }

    /// The values with a row for each hit.
    fn repeated(&self) -> Var<'g> {
        let per = self.factors.map_or(1, |f| f.per);
        let [count, width] = [self.values.dim(0), self.values.dim(-1)];
        self.values.reshape([count, 1, width]).expand([count, per, width]).reshape([count * per, width])
    }
}

/// What flows backwards to one input.
#[derive(Clone, Copy)]
pub enum Cotangent<'g> {
    /// A tensor of the input's shape.
    Dense(Var<'g>),
    /// Some rows of a table `[rows, width]`.
    Rows(Rows<'g>),
}

impl<'g> From<Var<'g>> for Cotangent<'g> {
    fn from(var: Var<'g>) -> Self {
        Cotangent::Dense(var)
    }
}

/// Gradient of one variable.
#[derive(Clone)]
pub enum Gradient<'g> {
    /// The loss does not depend on it.
    None,
    /// A tensor of its shape.
    Dense(Var<'g>),
    /// Sums of rows; each entry comes from one use of the table.
    Rows(Vec<Rows<'g>>),
}

impl<'g> Gradient<'g> {
    /// As a tensor of the variable's shape, if the loss depends on it.
    pub fn dense(&self) -> Option<Var<'g>> {
        match self {
            Gradient::None => None,
            Gradient::Dense(v) => Some(*v),
            Gradient::Rows(rows) => rows.iter().map(Rows::dense).reduce(|a, b| a + b),
        }
    }
}

/// What an operation's `vjp` sees.
pub struct Vjp<'g> {
    /// The graph to append to.
    pub graph: &'g Graph,
    /// Inputs of the forward operation (recomputed ones inside a recomputed segment).
    pub inputs: Vec<Var<'g>>,
    /// Outputs of the forward operation.
    pub outputs: Vec<Var<'g>>,
    /// Cotangents of the outputs, each of its output's type; absent is zero.
    pub cotangents: Vec<Option<Var<'g>>>,
}

impl<'g> Vjp<'g> {
    /// Cotangent of the only output.
    pub fn cotangent(&self) -> Option<Var<'g>> {
        self.cotangents.first().copied().flatten()
    }

    /// Wraps one dense cotangent per input.
    pub fn dense(&self, vars: impl IntoIterator<Item = Option<Var<'g>>>) -> Vec<Option<Cotangent<'g>>> {
        vars.into_iter().map(|v| v.map(Cotangent::Dense)).collect()
    }

    /// Gradient of an operation with one output through its composition from simple ones: `f` gets one variable per
    /// input and returns the output. This gives fused operations the derivatives that their kernels lack.
    pub fn composed(&self, f: impl FnOnce(&[Var<'g>]) -> Option<Var<'g>>) -> Vec<Option<Cotangent<'g>>> {
        // Fresh variables: an input that depends on another must not pass its gradient on here.
        let fresh: Vec<Var<'g>> = self.inputs.iter().map(|v| v.renamed()).collect();
        let (Some(g), Some(y)) = (self.cotangent(), f(&fresh)) else {
            return self.none();
        };
        let grads = self.graph.vjp(&[(y, g)], &fresh);
        self.dense(grads.iter().map(Gradient::dense))
    }

    /// No gradient for any input.
    pub fn none(&self) -> Vec<Option<Cotangent<'g>>> {
        vec![None; self.inputs.len()]
    }
}

/// Copies of recomputed nodes, made when the backward pass first needs them. What enters a segment is kept, so that one
/// segment does not recompute the one before it (Chen et al. 2016, arXiv 1604.06174).
struct Recompute<'g> {
    graph: &'g Graph,
    copies: FxHashMap<NodeId, NodeId>,
    numbers: FxHashMap<u32, u32>,
}

impl<'g> Recompute<'g> {
    /// The value that the backward pass of a node in segment `user` takes in place of `value`.
    fn value(&mut self, value: Value, user: Option<u32>) -> Value {
        let node = self.graph.borrow().nodes[value.node.0 as usize].clone();
        let (Some(segment), 0) = (node.segment, node.copy) else {
            return value;
        };
        if user != Some(segment) {
            return value;
        }
        let Kind::Op(_) = node.kind else { return value };
        if let Some(&copy) = self.copies.get(&value.node) {
            return Value { node: copy, output: value.output };
        }
        let inputs = (node.inputs.iter()).map(|v| self.value(*v, user)).collect();
        let mut g = self.graph.borrow_mut();
        let number = *self.numbers.entry(segment).or_insert_with(|| {
            g.copies += 1;
            g.copies
        });
        let call = Call { part: Part::Recomputed, ..node.call };
        g.nodes.push(super::Node { inputs, copy: number, call, ..node });
        let copy = NodeId(g.nodes.len() as u32 - 1);
        self.copies.insert(value.node, copy);
        Value { node: copy, output: value.output }
    }
}

#[derive(Default)]
struct Sum<'g> {
    dense: Option<Var<'g>>,
    rows: Vec<Rows<'g>>,
}

impl Graph {
    /// Gradients of the scalar `loss` with respect to `wrt`.
    #[track_caller]
    pub fn grad<'g>(&'g self, loss: Var<'g>, wrt: &[Var<'g>]) -> Vec<Gradient<'g>> {
        let location = Where::caller();
        if !self.owns("grad", &[loss], location) {
            return vec![Gradient::None; wrt.len()];
        }
        if loss.ty() != TensorType::f32(loss.shape()) || loss.shape().numel() != 1 {
            let message =
                format!("the loss must be one f32, not {}; reduce it with sum_all or mean_all, or use vjp", loss.ty());
            self.fail(Error::Shape { op: "grad".into(), message, shapes: vec![loss.shape()], location });
        }
        let seed = self.full(loss.shape(), 1.0);
        self.vjp(&[(loss, seed)], wrt)
    }

    /// Gradients of the scalar `loss` with respect to `wrt`, each a tensor of its variable's shape: zeros where the loss does
    /// not depend on it, and dense even for a table of which only rows were read, which [`grad`](Self::grad) leaves a list.
    ///
    /// ```
    /// use wgrad::{Device, Feed, Graph, Tensor, TensorType};
    /// # fn main() -> wgrad::Result<()> {
    /// let graph = Graph::new();
    /// let [x, y] = ["x", "y"].map(|name| graph.input(name, TensorType::f32([2])));
    /// let [dx, dy] = graph.gradients(x.square().sum_all(), [x, y]);
    /// let plan = Device::cpu().compile_blocking(&graph, &[("dx", dx), ("dy", dy)])?;
    /// plan.run(&Feed::new().input("x", &Tensor::f32([2], vec![1.0, 3.0])?))?;
    /// assert_eq!(plan.read_blocking("dx")?.floats(), [2.0, 6.0]);
    /// assert_eq!(plan.read_blocking("dy")?.floats(), [0.0, 0.0]); // the loss does not depend on it
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn gradients<'g, const N: usize>(&'g self, loss: Var<'g>, wrt: [Var<'g>; N]) -> [Var<'g>; N] {
        let mut all = wrt;
        for (var, gradient) in all.iter_mut().zip(self.grad(loss, &wrt)) {
            *var = match gradient.dense() {
                Some(dense) => dense,
                None => self.full(var.shape(), 0.0),
            };
        }
        all
    }

    /// Carries cotangents of several variables back to `wrt`.
    #[track_caller]
    pub fn vjp<'g>(&'g self, seeds: &[(Var<'g>, Var<'g>)], wrt: &[Var<'g>]) -> Vec<Gradient<'g>> {
        let location = Where::caller();
        let none = || vec![Gradient::None; wrt.len()];
        if self.borrow().error.is_some() || !self.owns("vjp", wrt, location) {
            return none();
        }
        for (var, cotangent) in seeds {
            if !self.owns("vjp", &[*var, *cotangent], location) {
                return none();
            }
            if cotangent.ty() != TensorType::f32(var.shape()) {
                self.fail(Error::Shape {
                    op: "vjp".into(),
                    message: format!("the cotangent of {} is {}", var.ty(), cotangent.ty()),
                    shapes: vec![var.shape(), cotangent.shape()],
                    location,
                });
                return none();
            }
        }
        // What the operations' own functions refuse.
        let _at = self.at(location);
        let needed = self.depends_on(wrt);
        let mut sums: FxHashMap<Value, Sum<'g>> = FxHashMap::default();
        let mut last = 0;
        for (var, cotangent) in seeds {
            add(&mut sums, var.value, Cotangent::Dense(*cotangent));
            last = last.max(var.value.node.0);
        }
        let mut recompute = Recompute { graph: self, copies: FxHashMap::default(), numbers: FxHashMap::default() };
        for id in (0..=last).rev() {
            if !needed[id as usize] {
                continue;
            }
            let node = self.borrow().nodes[id as usize].clone();
            let Kind::Op(op) = node.kind else { continue };
            let _calling = self.calling(Call { part: Part::Gradient, ..node.call });
            let value = |output| Value { node: NodeId(id), output };
            let cotangents: Vec<Option<Var<'g>>> =
                (0..node.types.len() as u32).map(|o| sums.get(&value(o)).and_then(|s| collapse(s))).collect();
            if cotangents.iter().all(Option::is_none) {
                continue;
            }
            let var = |v| Var::new(self, v);
            let inputs = node.inputs.iter().map(|v| var(recompute.value(*v, node.segment))).collect();
            let outputs = (0..node.types.len() as u32).map(|o| var(recompute.value(value(o), node.segment))).collect();
            let cx = Vjp { graph: self, inputs, outputs, cotangents };
            let outside = self.in_segment(None);
            let grads = op.vjp(&cx);
            drop(outside);
            if self.borrow().error.is_some() {
                // What stands in for a refused gradient fits no other operation.
                return none();
            }
            for (input, grad) in node.inputs.iter().zip(grads) {
                let float = self.type_of(*input).dtype == DType::F32;
                if let (Some(grad), true, true) = (grad, float, needed[input.node.0 as usize]) {
                    self.check(op.name(), *input, &grad, location);
                    add(&mut sums, *input, grad);
                }
            }
        }
        wrt.iter()
            .map(|v| match sums.get(&v.value) {
                None => Gradient::None,
                Some(s) if s.dense.is_none() && !s.rows.is_empty() => Gradient::Rows(s.rows.clone()),
                Some(s) => collapse(s).map_or(Gradient::None, Gradient::Dense),
            })
            .collect()
    }

    /// Which nodes depend on any of `wrt`.
    fn depends_on(&self, wrt: &[Var<'_>]) -> Vec<bool> {
        let g = self.borrow();
        let mut needed = vec![false; g.nodes.len()];
        for v in wrt {
            needed[v.value.node.0 as usize] = true;
        }
        for (i, node) in g.nodes.iter().enumerate() {
            let blocks = matches!(&node.kind, Kind::Op(op) if op.name() == "stop_gradient");
            if !blocks && node.inputs.iter().any(|v| needed[v.node.0 as usize]) {
                needed[i] = true;
            }
        }
        needed
    }

    /// A wrong shape from a vjp is a defect of that operation; it is reported like any other shape error.
    fn check(&self, op: &str, input: Value, grad: &Cotangent<'_>, location: Where) {
        let Cotangent::Dense(grad) = grad else { return };
        let want = self.type_of(input).shape;
        if self.borrow().error.is_none() && grad.shape() != want {
            let op = format!("gradient of {op}");
            let message = format!("expected {want}");
            self.fail(Error::Shape { op, message, shapes: vec![grad.shape()], location });
        }
    }
}

fn add<'g>(sums: &mut FxHashMap<Value, Sum<'g>>, value: Value, grad: Cotangent<'g>) {
    let sum = sums.entry(value).or_default();
    match grad {
        Cotangent::Dense(v) => sum.dense = Some(sum.dense.map_or(v, |d| d + v)),
        Cotangent::Rows(rows) => sum.rows.push(rows),
    }
}

fn collapse<'g>(sum: &Sum<'g>) -> Option<Var<'g>> {
    sum.rows.iter().map(Rows::dense).chain(sum.dense).reduce(|a, b| a + b)
}

/// Shared handle of an operation.
pub(crate) type SharedOp = Arc<dyn super::Op>;
