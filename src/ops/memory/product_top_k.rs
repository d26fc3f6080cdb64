//! The best of all sums of a score of one half and a score of the other: product keys (Lample et al. 2019,
//! arXiv 1907.05242).
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.constant(Tensor::f32([1, 3], vec![0.0, 2.0, 1.0])?);
//! let y = graph.constant(Tensor::f32([1, 3], vec![5.0, 0.0, 1.0])?);
//! let best = x.product_top_k(y, 2); // of the 9 sums x_i + y_j
//! let plan = Device::cpu().compile_blocking(&graph, &[("sums", best.values), ("slots", best.indices)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("sums")?.floats(), [7.0, 6.0]);
//! assert_eq!(plan.read_blocking("slots")?.ints(), [3, 6]); // i * 3 + j
//! # Ok(())
//! # }
//! ```

use super::product_pairs::{CANDIDATES, ProductPairs, candidates};
use crate::error::{Error, Where};
use crate::graph::Var;
use crate::ops::select::top_k::TopK;
use crate::types::Tensor;

impl<'g> Var<'g> {
    /// The `k` largest of all sums `self[.., i] + other[.., j]` of half scores f32 `[.., M]` and `[.., N]`: values `[.., k]`,
    /// descending, and indices `i N + j` (u32 `[.., k]`), the slots of a product-key memory with M x N slots.
    ///
    /// Both halves' [`top_k`](Self::top_k) come first, then the best pairs of these two lists, of which only about k ln k
    /// are looked at. That gives the values of a top-k of all M N sums, and the indices but for ties: **equal sums go to
    /// the pair that comes first by rows in the grid of the two sorted lists**, not to the lower index (two entries of
    /// one list may differ and still round to one sum, and then the better one may have the higher index). NaN and sums
    /// of opposite infinities come last; which pairs the others then form is not specified.
    ///
    /// 1 <= `k` <= M N, and M N must fit u32, else the graph keeps an error. The gradient of a sum goes to both of its
    /// scores; scores in several of the chosen sums get the sum of those gradients, the others 0.
    #[track_caller]
    pub fn product_top_k(self, other: Var<'g>, k: usize) -> TopK<'g> {
        let (m, n) = (self.dim(-1), other.dim(-1));
        let location = Where::caller();
        if m.checked_mul(n).is_none_or(|all| all as u64 > u64::from(u32::MAX)) {
            let message = format!("{m} x {n} pairs; their indices are u32");
            let shapes = vec![self.shape(), other.shape()];
            self.graph().fail(Error::Shape { op: "product_top_k".into(), message, shapes, location });
        }
        let x = self.top_k(k.clamp(1, m.max(1)));
        let y = other.top_k(k.clamp(1, n.max(1)));
        x.product(y, n, k)
    }
}

impl<'g> TopK<'g> {
    /// The `k` largest sums of a value of this list `[.., a]` and one of `other` `[.., b]`, as
    /// [`product_top_k`](Var::product_top_k) forms them from the lists of both halves: for half lists that were chosen or
    /// weighted otherwise, such as by a differentiable top-k. Both must descend along the last axis (sort them again
    /// after any change of values); from lists that do not, some `k` of the pairs result. Indices are
    /// `index n + other index`, modulo 2^32.
    ///
    /// 1 <= `k` <= a b, else the graph keeps an error.
    #[track_caller]
    pub fn product(self, other: TopK<'g>, n: usize, k: usize) -> TopK<'g> {
        let graph = self.values.graph();
        let (a, b) = (self.values.dim(-1), other.values.dim(-1));
        // What cannot be is refused before anything of its size is made.
        let valid = a.checked_mul(b).is_some_and(|all| (1..=all).contains(&k) && all <= u32::MAX as usize);
        let pairs = if valid { candidates(a, b, k) } else { Vec::new() };
        if pairs.len() > CANDIDATES {
            return self.product_of(other, n, k, &pairs);
        }
        let count = pairs.len();
        let constant = match Tensor::u32([count], pairs) {
            Ok(pairs) => graph.constant(pairs),
            Err(error) => {
                graph.fail(error);
                return self;
            }
        };
        let inputs = [self.values, self.indices, other.values, other.indices, constant];
        let out = graph.apply(ProductPairs { k, n }, &inputs);
        TopK { values: out[0], indices: out[1] }
    }

    /// The same from the sums of all candidates, where they do not fit a workgroup.
    #[track_caller]
    fn product_of(self, other: TopK<'g>, n: usize, k: usize, pairs: &[u32]) -> TopK<'g> {
        let graph = self.values.graph();
        let b = other.values.dim(-1) as u32;
        let mut shape = self.values.shape();
        if let Some(last) = shape.0.last_mut() {
            *last = pairs.len();
        }
        let constant = |f: &dyn Fn(u32) -> u32| {
            let list = Tensor::u32([pairs.len()], pairs.iter().map(|p| f(*p)).collect());
            list.map(|list| graph.constant(list)).unwrap_or(self.indices)
        };
        let [i, j] = [constant(&|p| p / b.max(1)), constant(&|p| p % b.max(1))];
        let [at_i, at_j] = [i, j].map(|list| list.expand(shape.clone()));
        let sums = self.values.take_along(at_i, -1) + other.values.take_along(at_j, -1);
        let best = sums.top_k(k);
        let chosen = |list: Var<'g>| list.reshape([pairs.len(), 1]).gather(best.indices).reshape(best.indices.shape());
        let x = self.indices.take_along(chosen(i), -1);
        let y = other.indices.take_along(chosen(j), -1);
        TopK { values: best.values, indices: x * n as u32 + y }
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    for (outer, m, n, k) in [
        (&[1][..], 1, 1, 1),
        (&[], 7, 5, 4),
        (&[0], 4, 4, 2),
        (&[5], 3, 9, 27),
        (&[2, 3], 31, 31, 31),
        (&[66_000], 3, 4, 2),
        (&[9], 128, 128, 32),
        (&[2], 300, 257, 100),
        (&[3], 400, 400, 300),
        (&[2], 700, 700, 600),
    ] {
        let shape = |n: usize| [outer, &[n]].concat();
        let name = format!("product_top_k {k} of {outer:?} [{m}, {n}]");
        fn of<'g>(x: Var<'g>, y: Var<'g>, k: usize) -> Vec<Var<'g>> {
            let t = x.product_top_k(y, k);
            vec![t.values, t.indices]
        }
        let sample = Sample::new(name, [&shape(m), &shape(n)], move |_, x| of(x[0], x[1], k));
        // Among many sums some change places within the step of a difference.
        all.push(if k > 27 { sample.no_gradient() } else { sample });
    }
    let lists = Sample::new("product of lists of two lengths", [&[6, 9], &[6, 7]], |_, x| {
        let (a, b) = (x[0].top_k(3), x[1].top_k(7));
        let a = TopK { values: a.values.tanh(), ..a };
        let t = a.product(b, 7, 10);
        vec![t.values * x[0].take_along(a.indices, 1).sum(1), t.indices]
    });
    all.push(lists);
    all
}
