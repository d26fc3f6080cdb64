//! Random graphs of existing operations.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::ops::samples::Draw;
use wgrad::{Graph, Mode, Shape, TensorType, Var};

/// Largest number of elements of a value.
const LARGEST: usize = 1500;
const INDICES: usize = 11;

/// Grows a graph by random operations. Sine, cosine and what uses them are left to the samples: WGSL allows them an error
/// of 2^-11, and drivers use it.
pub struct Grower<'g> {
    pub graph: &'g Graph,
    pub rng: ChaCha8Rng,
    /// Values to build on.
    pub pool: Vec<Var<'g>>,
    /// Values with the same bits on every executor, on which functions with jumps may act.
    pub exact: Vec<Var<'g>>,
    pub indices: Var<'g>,
    pub inputs: Vec<(String, TensorType, Draw)>,
    pub states: Vec<Var<'g>>,
    pub names: Vec<String>,
}

impl<'g> Grower<'g> {
    pub fn new(graph: &'g Graph, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let indices = graph.input("indices", TensorType::u32([INDICES]));
        let mut inputs = vec![("indices".to_owned(), indices.ty(), Draw::Below(9))];
        let mut pool = Vec::new();
        for i in 0..rng.random_range(1..4) {
            let (name, ty) = (format!("x{i}"), TensorType::f32(shape(&mut rng)));
            pool.push(graph.input(&name, ty.clone()));
            inputs.push((name, ty, Draw::Normal));
        }
        let exact = pool.clone();
        let mut states = Vec::new();
        let mut names: Vec<String> = (0..rng.random_range(1..4)).map(|i| format!("s{i}")).collect();
        for name in &names {
            states.push(graph.state(name, TensorType::f32(shape(&mut rng))));
        }
        // A pair of one type, so that states can be exchanged.
        let pair = TensorType::f32(shape(&mut rng));
        states.push(graph.state("p0", pair.clone()));
        states.push(graph.state("p1", pair));
        names.extend(["p0".to_owned(), "p1".to_owned()]);
        pool.extend(&states);
        Grower { graph, rng, pool, exact, indices, inputs, states, names }
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n.max(1))
    }

    pub fn pick(&mut self) -> Var<'g> {
        // Often a late one, so that chains grow; often an early one, so that values fan out.
        let n = self.pool.len();
        let from = if self.below(2) == 0 { n.saturating_sub(4) } else { 0 };
        let at = self.rng.random_range(from..n);
        self.pool[at]
    }

    fn axis(&mut self, x: Var<'g>) -> usize {
        self.below(x.rank())
    }

    pub fn step(&mut self) {
        let x = self.pick();
        let y = match self.below(19) {
            0 | 1 => self.unary(x),
            2..=4 => self.binary(x),
            5..=7 => self.view(x),
            8 => self.reduce(x),
            9 if x.rank() > 0 => {
                let axis = self.axis(x);
                x.softmax(axis)
            }
            10 | 11 => self.matmul(x),
            12 => self.rows(x),
            13 if x.rank() > 0 => self.join(x),
            14 => self.choose(x),
            15 => self.random(x),
            16 => {
                let graph = self.graph;
                graph.recompute(|| {
                    let y = self.unary(x);
                    let z = self.binary(y);
                    self.unary(z)
                })
            }
            17 => {
                let y = self.unary(x);
                if self.below(2) == 0 { y * x.stop_gradient() } else { x.straight_through(y) }
            }
            _ => self.jump(x),
        };
        if y.shape().numel() <= LARGEST {
            self.pool.push(y);
        }
    }

    fn unary(&mut self, x: Var<'g>) -> Var<'g> {
        match self.below(8) {
            0 => x.sigmoid(),
            1 => x.gelu(),
            2 => x.tanh().gelu() * 1.5,
            3 => x.tanh().exp(),
            4 => (x * x + 1.0).ln().tanh(),
            5 => 1.0 / (x.square() + 1.0),
            6 => x * 0.5 - 0.25,
            _ => x.tanh(),
        }
    }

    fn binary(&mut self, x: Var<'g>) -> Var<'g> {
        let fits = |y: &Var<'g>| x.shape().broadcast(&y.shape()).is_ok_and(|s| s.numel() <= LARGEST);
        let partners: Vec<Var<'g>> = self.pool.iter().copied().filter(fits).collect();
        let y = partners[self.below(partners.len())];
        match self.below(5) {
            0 => x + y,
            1 => y - x,
            2 => x / (y.square() + 1.0),
            3 => x.tanh() * y.tanh() + x,
            _ => (x * y).tanh(),
        }
    }

    fn view(&mut self, x: Var<'g>) -> Var<'g> {
        let shape = x.shape();
        if shape.is_empty() {
            return x.expand([3, 2]);
        }
        let axis = self.axis(x);
        let extent = shape[axis];
        match self.below(7) {
            0 | 1 => {
                let other = self.below(shape.len());
                x.transpose(axis as isize, other as isize)
            }
            2 => x.reshape([shape.numel()]),
            3 => {
                let step = 1 + self.below(3);
                let start = self.below(extent);
                let most = if extent == 0 { 0 } else { (extent - start).div_ceil(step) };
                let len = self.below(most + 1).max(most.min(1));
                x.slice_step(axis, start, len, step)
            }
            4 => {
                let mut to = shape.clone();
                to.0.insert(0, 1 + self.below(3));
                x.expand(to)
            }
            5 => {
                // Split or merge dimensions.
                let mut to = shape.clone();
                let part = if extent.is_multiple_of(2) { 2 } else { 1 };
                to.0.splice(axis..=axis, [part, extent / part]);
                if axis > 0 && self.below(2) == 0 {
                    let merged = to.0.remove(axis);
                    to.0[axis - 1] *= merged;
                }
                x.reshape(to)
            }
            _ => x.contiguous(),
        }
    }

    fn reduce(&mut self, x: Var<'g>) -> Var<'g> {
        if x.rank() == 0 {
            return x.sum_all();
        }
        let axis = self.axis(x);
        match self.below(3) {
            0 => x.sum(axis).tanh(),
            1 => x.sum_to(&x.shape()[axis..]).tanh(),
            _ => (x.sum_all() * 0.1).tanh(),
        }
    }

    fn matmul(&mut self, x: Var<'g>) -> Var<'g> {
        let rank = x.rank();
        if rank < 2 {
            let n = x.shape().numel();
            return x.reshape([n, 1]).matmul(x.reshape([1, n])).tanh();
        }
        let inner = x.dim(-1);
        let fits = |y: &Var<'g>| y.rank() == 2 && y.dim(-2) == inner;
        let partners: Vec<Var<'g>> = self.pool.iter().copied().filter(fits).collect();
        if partners.is_empty() || self.below(3) == 0 {
            return x.matmul(x.transpose(-1, -2)).tanh();
        }
        let y = partners[self.below(partners.len())];
        x.matmul(y).tanh()
    }

    fn rows(&mut self, x: Var<'g>) -> Var<'g> {
        let shape = x.shape();
        let width = shape.last().copied().unwrap_or(1);
        let count = shape.numel().checked_div(width).unwrap_or(0);
        let table = x.reshape([count, width]);
        if self.below(2) == 0 {
            let n = 1 + self.below(INDICES);
            return table.gather(self.indices.slice(0, INDICES - n, n));
        }
        // Row i of x goes to a row by its number: every row several times, some out of range.
        let targets = self.graph.iota([count], 0);
        let targets = (targets * 7u32).rem(10);
        let rows = self.rng.random_range(1..10);
        table.scatter_add(targets, rows).tanh()
    }

    fn join(&mut self, x: Var<'g>) -> Var<'g> {
        let axis = self.axis(x);
        match self.below(4) {
            0 => {
                let y = self.unary(x);
                let empty = x.slice(axis, x.shape()[axis], 0);
                x.concat(&[y, empty, x.slice(axis, 0, x.shape()[axis] / 2)], axis)
            }
            1 => x.pad(axis, self.below(3), self.below(3)),
            2 => x.dilate(axis, 2),
            _ => x.transpose(0, -1).concat(&[x.transpose(0, -1)], axis),
        }
    }

    fn choose(&mut self, x: Var<'g>) -> Var<'g> {
        let no = self.unary(x);
        if x.rank() == 0 {
            return self.indices.slice(0, 2, 1).reshape([]).gt(4).select(x, no);
        }
        let axis = self.axis(x);
        let odd = self.graph.iota(x.shape(), axis).rem(2);
        if self.below(2) == 0 { odd.select(x, no) } else { x.masked_fill(odd, -0.5) + odd.to_f32() }
    }

    fn random(&mut self, x: Var<'g>) -> Var<'g> {
        let site = self.below(5) as u32;
        match self.below(3) {
            0 => x * self.graph.uniform(x.shape(), site),
            1 => x + self.graph.gumbel(x.shape(), site) * 0.1,
            _ => x.dropout(0.4, site, Mode::Train),
        }
    }

    /// Functions with jumps in value or slope, of exact values only.
    fn jump(&mut self, x: Var<'g>) -> Var<'g> {
        let at = self.below(self.exact.len());
        let e = self.exact[at];
        let y = match self.below(4) {
            0 => e.relu(),
            1 if e.rank() > 0 && e.shape().numel() > 0 => e.max(self.axis(e)),
            2 => e.gt(0.1).select(e, -1.0 * e),
            _ => e.abs(),
        };
        x * y.sum_all().tanh()
    }
}

fn shape(rng: &mut ChaCha8Rng) -> Shape {
    let rank = rng.random_range(0..4);
    let dims = [1, 2, 3, 4, 5, 7, 8];
    (0..rank).map(|_| dims[rng.random_range(0..dims.len())]).collect::<Vec<_>>().into()
}
