//! From the lines of a program to a graph.

use crate::memory::Put;
use crate::program::Program;
use wgrad::{DType, Graph, Shape, TensorType, Var};

/// Largest number of elements of a value.
pub const LARGEST: usize = 1500;

/// How an input is drawn.
#[derive(Clone, Copy)]
pub enum Draw {
    /// Floats around 0.
    Normal,
    /// Multiples of 1/64 in (-2, 2): small sums of them have no rounding, and ties are common.
    Exact,
    /// Integers below a bound.
    Below(u32),
    /// Squares of floats around 0.
    Squares,
    /// Words of exact halves, two each, for rows of so many.
    Halves(usize),
    /// Words of bytes, four each, for rows of so many.
    Bytes(usize),
}

/// What a program is built for.
#[derive(Clone, Copy, PartialEq)]
pub enum Aim {
    /// To run as it is.
    Run,
    /// Rounded values are multiplied by random numbers within 3e-7 of 1: what that does to the results says how well they
    /// are determined.
    Nudge,
    /// For differences of the loss: states are inputs, which may be moved in double precision.
    Differ,
}

/// A float value.
#[derive(Clone, Copy)]
pub struct Float<'g> {
    pub var: Var<'g>,
    /// If it is a multiple of 1/64: a bound of its absolute value. It has the same bits on every executor, so
    /// functions with jumps may act on it.
    pub exact: Option<f64>,
    /// Whether it has a second derivative.
    pub smooth: bool,
}

/// An integer value; equal on every executor.
#[derive(Clone, Copy)]
pub struct Int<'g> {
    pub var: Var<'g>,
    pub below: u64,
}

#[derive(Clone, Copy)]
pub enum Value<'g> {
    Float(Float<'g>),
    Int(Int<'g>),
}

impl<'g> Value<'g> {
    pub fn var(&self) -> Var<'g> {
        match self {
            Value::Float(f) => f.var,
            Value::Int(i) => i.var,
        }
    }
}

/// A graph under construction, and what is to become of it.
pub struct Grower<'g> {
    pub graph: &'g Graph,
    aim: Aim,
    values: Vec<Option<Value<'g>>>,
    args: [usize; 3],
    dice: [u32; 4],
    smooth: bool,
    pub inputs: Vec<(String, TensorType, Draw)>,
    pub states: Vec<(String, Var<'g>, Draw)>,
    pub outputs: Vec<(String, Var<'g>)>,
    pub updates: Vec<(usize, Var<'g>)>,
    pub puts: Vec<Put<'g>>,
    pub gate: Option<Var<'g>>,
    loss: Option<Var<'g>>,
    /// Whether the gradient is that of the value: not behind stopped gradients and estimators.
    pub honest: bool,
    /// Which operations took part, for the statistics.
    pub used: Vec<&'static str>,
}

impl<'g> Grower<'g> {
    /// Builds the graph.
    pub fn new(graph: &'g Graph, program: &Program, aim: Aim) -> Self {
        let mut g = Grower {
            graph,
            aim,
            values: Vec::new(),
            args: [0; 3],
            dice: [0; 4],
            smooth: true,
            inputs: Vec::new(),
            states: Vec::new(),
            outputs: Vec::new(),
            updates: Vec::new(),
            puts: Vec::new(),
            gate: None,
            loss: None,
            honest: true,
            used: Vec::new(),
        };
        for (i, line) in program.lines.iter().enumerate() {
            (g.args, g.dice, g.smooth) = (line.args, line.dice, true);
            let mut value = (line.op.make)(&mut g).filter(|v| v.var().shape().numel() <= LARGEST);
            if let (true, Some(Value::Float(f @ Float { exact: None, .. }))) = (aim == Aim::Nudge, &mut value) {
                let noise = graph.uniform(f.var.shape(), 5000 + i as u32);
                f.var = f.var * ((noise - 0.5) * 6e-7 + 1.0);
            }
            if value.is_some() {
                g.used.push(line.op.name);
            }
            g.values.push(value);
        }
        g.gradients();
        g
    }

    fn gradients(&mut self) {
        let Some(loss) = self.loss else { return };
        let wrt: Vec<Var<'g>> = self.leaves();
        self.outputs.push(("loss".to_owned(), loss));
        for (i, gradient) in self.graph.grad(loss, &wrt).iter().enumerate() {
            if let Some(gradient) = gradient.dense() {
                self.outputs.push((format!("grad{i}"), gradient));
            }
        }
    }

    /// Float inputs and states.
    pub fn leaves(&self) -> Vec<Var<'g>> {
        let inputs = self.inputs.iter().filter(|(_, ty, _)| ty.dtype == DType::F32);
        let inputs = inputs.map(|(name, ty, _)| self.graph.input(name, ty.clone()));
        let states = self.states.iter().map(|(_, v, _)| *v).filter(|v| v.dtype() == DType::F32);
        inputs.chain(states).collect()
    }

    // What operations ask for.

    /// Die `i` below `n`.
    pub fn die(&self, i: usize, n: usize) -> usize {
        self.dice[i] as usize % n.max(1)
    }

    fn near<T>(&self, arg: usize, mut fits: impl FnMut(&Value<'g>) -> Option<T>) -> Option<T> {
        let at = self.args[arg].min(self.values.len().saturating_sub(1));
        let before = (0..=at).rev().chain(at + 1..self.values.len());
        before.filter_map(|i| self.values.get(i).copied().flatten()).find_map(|v| fits(&v))
    }

    /// A float at argument `arg`, or near it, for which `fits`.
    pub fn float_like(&mut self, arg: usize, fits: impl Fn(&Float<'g>) -> bool) -> Option<Float<'g>> {
        let found = self.near(arg, |v| match v {
            Value::Float(f) if fits(f) => Some(*f),
            _ => None,
        })?;
        self.smooth &= found.smooth;
        Some(found)
    }

    pub fn float(&mut self, arg: usize) -> Option<Float<'g>> {
        self.float_like(arg, |_| true)
    }

    /// A float of at least one dimension.
    pub fn row(&mut self, arg: usize) -> Option<Float<'g>> {
        self.float_like(arg, |f| f.var.rank() > 0)
    }

    /// A float on which functions with jumps may act.
    pub fn exact(&mut self, arg: usize) -> Option<Float<'g>> {
        self.float_like(arg, |f| f.exact.is_some())
    }

    /// The same of at least one dimension.
    pub fn exact_row(&mut self, arg: usize) -> Option<Float<'g>> {
        self.float_like(arg, |f| f.exact.is_some() && f.var.rank() > 0)
    }

    /// A float that broadcasts with `x`.
    pub fn partner(&mut self, arg: usize, x: Var<'g>) -> Option<Float<'g>> {
        self.float_like(arg, |f| broadcasts(f.var, x))
    }

    pub fn int_like(&self, arg: usize, fits: impl Fn(&Int<'g>) -> bool) -> Option<Int<'g>> {
        self.near(arg, |v| match v {
            Value::Int(i) if fits(i) => Some(*i),
            _ => None,
        })
    }

    pub fn int(&self, arg: usize) -> Option<Int<'g>> {
        self.int_like(arg, |_| true)
    }

    /// Integers below `bound` of any shape, made from those at argument `arg`.
    pub fn indices(&self, arg: usize, shape: impl Into<Shape>, bound: u32) -> Var<'g> {
        let shape = shape.into();
        let n = shape.numel();
        let count = self.graph.iota([n], 0);
        let Some(int) = self.int(arg).filter(|i| i.var.shape().numel() > 0) else {
            return (count * 7u32).rem(bound.max(1)).reshape(shape);
        };
        let m = int.var.shape().numel();
        let table = int.var.reshape([m, 1]);
        let places = (count * 5u32 + self.die(3, 97) as u32).rem(m as u32);
        (table.gather(places).reshape([n]) + count).rem(bound.max(1)).reshape(shape)
    }

    /// A mask of any shape.
    pub fn mask(&self, arg: usize, shape: impl Into<Shape>) -> Var<'g> {
        self.indices(arg, shape, 4).ne(self.die(3, 5) as u32)
    }

    /// Any shape by die `i`.
    pub fn shape(&self, i: usize) -> Shape {
        const DIMS: [usize; 14] = [1, 2, 3, 5, 4, 7, 8, 1, 17, 2, 33, 6, 65, 0];
        let mut die = self.dice[i] as usize * 2_654_435_761 % (1 << 32);
        let rank = [1, 2, 3, 0, 2, 4, 3][die % 7];
        let mut shape = Vec::new();
        for _ in 0..rank {
            die /= 7;
            let dim = DIMS[die % DIMS.len()];
            let room = LARGEST / shape.iter().product::<usize>().max(1);
            shape.push(dim.min(room));
        }
        shape.into()
    }

    /// An axis of `x` by die `i`.
    pub fn axis(&self, i: usize, x: Var<'g>) -> usize {
        self.die(i, x.rank())
    }

    // What operations give.

    /// A rounded result.
    pub fn rounded(&self, var: Var<'g>) -> Option<Value<'g>> {
        Some(Value::Float(Float { var, exact: None, smooth: self.smooth }))
    }

    /// A rounded result without a second derivative.
    pub fn rough(&self, var: Var<'g>) -> Option<Value<'g>> {
        Some(Value::Float(Float { var, exact: None, smooth: false }))
    }

    /// A result that is exact if there is a bound, and the bound small.
    pub fn bounded(&self, var: Var<'g>, bound: Option<f64>) -> Option<Value<'g>> {
        let exact = bound.filter(|b| *b < 60_000.0);
        let var = if exact.is_none() && bound.is_some() { var * 1e-4 } else { var };
        Some(Value::Float(Float { var, exact, smooth: self.smooth }))
    }

    pub fn ints(&self, var: Var<'g>, below: u64) -> Option<Value<'g>> {
        Some(Value::Int(Int { var, below }))
    }

    /// An input of its own.
    pub fn input(&mut self, ty: TensorType, draw: Draw) -> Var<'g> {
        let name = format!("x{}", self.inputs.len());
        let var = self.graph.input(&name, ty.clone());
        self.inputs.push((name, ty, draw));
        var
    }

    pub fn state(&mut self, ty: TensorType) -> Var<'g> {
        self.drawn_state(ty, Draw::Normal)
    }

    /// A state that holds squares.
    pub fn square_state(&mut self, ty: TensorType) -> Var<'g> {
        self.drawn_state(ty, Draw::Squares)
    }

    /// A state that holds small integers.
    pub fn count_state(&mut self, ty: TensorType) -> Var<'g> {
        self.drawn_state(ty, Draw::Below(30))
    }

    fn drawn_state(&mut self, ty: TensorType, draw: Draw) -> Var<'g> {
        let name = format!("s{}", self.states.len());
        let var = if self.aim == Aim::Differ { self.graph.input(&name, ty) } else { self.graph.state(&name, ty) };
        self.states.push((name, var, draw));
        var
    }

    pub fn output(&mut self, var: Var<'g>) {
        self.outputs.push((format!("out{}", self.outputs.len()), var));
    }

    /// A sum of the elements with different weights.
    pub fn weighed(&self, x: Var<'g>) -> Var<'g> {
        let n = x.shape().numel();
        let weights = (self.graph.iota([n], 0) * 37u32).rem(101).to_f32() * (1.0 / 64.0) - 0.75;
        (x.reshape([n]) * weights).sum_all() * (1.0 / (n as f64).sqrt().max(1.0))
    }

    pub fn add_to_loss(&mut self, x: Var<'g>) {
        let part = self.weighed(x);
        self.loss = Some(self.loss.map_or(part, |l| l + part));
    }

    /// The state at argument `arg` (not yet assigned) that has the type of a value, and that value.
    pub fn update(&self, arg: usize) -> Option<(usize, Var<'g>)> {
        // Tables belong to their operations.
        let own = |i: &usize| matches!(self.states[*i].2, Draw::Normal);
        let free = |i: &usize| own(i) && self.updates.iter().all(|(u, _)| u != i);
        let n = self.states.len();
        let state = (0..n).map(|i| (i + self.args[0]) % n).find(free)?;
        let ty = self.states[state].1.ty();
        let value = self.near(arg, |v| (v.var().ty() == ty).then(|| v.var()))?;
        Some((state, value))
    }
}

pub fn broadcasts(x: Var<'_>, y: Var<'_>) -> bool {
    x.shape().broadcast(&y.shape()).is_ok_and(|s| s.numel() <= LARGEST)
}
