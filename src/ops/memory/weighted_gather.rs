//! Weighted sums of rows of a table: an embedding bag with a weight for each sample.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let table = graph.constant(Tensor::f32([3, 2], vec![1.0, 2.0, 10.0, 20.0, 100.0, 200.0])?);
//! let slots = graph.constant(Tensor::u32([1, 2], vec![2, 0])?);
//! let weights = graph.constant(Tensor::f32([1, 2], vec![0.5, 3.0])?);
//! let sum = table.weighted_gather(slots, weights); // [1, 2]
//! let plan = Device::cpu().compile_blocking(&graph, &[("sum", sum)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("sum")?.floats(), [53.0, 106.0]);
//! # Ok(())
//! # }
//! ```

use super::gather_dot::GatherDot;
use super::table::{CpuRow, CpuTable, Format, TableMeta};
use crate::error::{Refusal, Result, Where};
use crate::graph::{Cotangent, Factors, Op, Rows, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::ops::gather::picked;
use crate::types::{DType, Operand, Real, TensorType};
use encase::ShaderType;

/// Some columns of an output row an invocation.
pub static WEIGHTED_GATHER: Kernel = kernel!("memory/weighted_gather");
/// The same for rows of full fours of words.
pub static WEIGHTED_GATHER_WIDE: Kernel = kernel!("memory/weighted_gather_wide");

const WIDTH: usize = 64;
/// Times four columns that an invocation has at most: a software driver reads much of a row in one go.
const TOTALS: usize = 8;
/// Elements that one thread reads at a time on the CPU.
const GRAIN: usize = 1 << 15;
/// Invocations below which it has less, to keep all threads busy.
const SPREAD: usize = 8 * WIDTH;

/// `y[..] = sum_j weights[.., j] table[indices[.., j]]`; an index that names no row adds nothing. Inputs: the pieces of the
/// table, indices `[.., k]`, weights, scales if the format has any, and with `masked` which rows get a gradient (u32 `[rows]`).
#[derive(Clone, Debug)]
pub(crate) struct WeightedGather {
    pub format: Format,
    pub masked: bool,
}

#[derive(ShaderType)]
struct Meta {
    table: TableMeta,
    n: u32,
    k: u32,
}

/// Adds weighted rows to `out`, floats four rows at a time, in order.
#[inline(always)]
fn add_rows<T: Real>(hits: &[(CpuRow<'_, T>, T)], out: &mut [T]) {
    let width = out.len();
    let mut quads = hits.chunks_exact(4);
    for quad in &mut quads {
        let rows = (quad[0].0, quad[1].0, quad[2].0, quad[3].0);
        let (CpuRow::Floats(a), CpuRow::Floats(b), CpuRow::Floats(c), CpuRow::Floats(d)) = rows else {
            quad.iter().for_each(|(row, weight)| row.add_to(*weight, out));
            continue;
        };
        let [a, b, c, d] = [a, b, c, d].map(|row| &row[..width]);
        let [u, v, w, x] = [0, 1, 2, 3].map(|i| quad[i].1);
        for (i, out) in out.iter_mut().enumerate() {
            *out = *out + u * a[i] + v * b[i] + w * c[i] + x * d[i];
        }
    }
    quads.remainder().iter().for_each(|(row, weight)| row.add_to(*weight, out));
}

impl WeightedGather {
    /// Weighted sums of rows of a table in pieces.
    #[track_caller]
    pub fn apply<'g>(
        self,
        pieces: &[Var<'g>],
        indices: Var<'g>,
        weights: Var<'g>,
        scales: Option<Var<'g>>,
        trained: Option<Var<'g>>,
    ) -> Var<'g> {
        let mut inputs = pieces.to_vec();
        inputs.extend([indices, weights]);
        inputs.extend(scales.into_iter().chain(trained));
        indices.graph().apply_at(std::sync::Arc::new(self), &inputs, Where::caller())[0]
    }

    /// Number of pieces of the table among so many inputs.
    fn pieces(&self, inputs: usize) -> usize {
        inputs.saturating_sub(2 + usize::from(self.format.scaled()) + usize::from(self.masked))
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let pieces = self.pieces(call.inputs.len());
        let table = CpuTable::new(call, self.format, pieces, pieces + 2);
        let (indices, weights) = (call.u(pieces), call.f(pieces + 1));
        let (_, k) = call.inputs[pieces].shape.rows();
        let (width, group) = (table.width(), table.group());
        let per = (GRAIN / ((k + 1) * width).max(1)).max(1);
        par::pieces(
            call.out(0),
            per * width,
            #[inline(always)]
            |start, piece| {
                let end = (start + piece.len()) / width * k;
                let mut hits = Vec::new();
                for (i, out) in piece.chunks_mut(width).enumerate() {
                    let mine = (start / width + i) * k..(start / width + i + 1) * k;
                    out.fill(T::ZERO);
                    for from in mine.clone().step_by(group) {
                        let to = mine.end.min(from.saturating_add(group));
                        table.ask(&indices[to..end.min(to.saturating_add(group))]);
                        hits.clear();
                        let own = indices[from..to].iter().zip(&weights[from..to]);
                        hits.extend(own.filter_map(|(i, w)| Some((table.row(*i)?, *w))));
                        add_rows(&hits, out);
                    }
                }
            },
        );
    }
}

impl Op for WeightedGather {
    fn name(&self) -> &'static str {
        "weighted_gather"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (tables, rest) = inputs.split_at(self.pieces(inputs.len()));
        let [indices, weights, rest @ ..] = rest else {
            return Refusal::shape("expected a table, indices and weights");
        };
        let (scales, mask) = rest.split_at(usize::from(self.format.scaled()));
        let [rows, width] = self.format.check(tables, scales.first())?;
        indices.require(DType::U32, "indices are integers; convert with to_u32")?;
        weights.require(DType::F32, "weights are floats; convert with to_f32")?;
        if indices.shape.is_empty() || indices.shape != weights.shape {
            return Refusal::shape("expected indices [.., k] and one weight for each");
        }
        if mask.iter().any(|m| *m != TensorType::u32([rows])) {
            return Refusal::shape(format!(
                "a mask of rows is {}, 1 for those that are trained",
                TensorType::u32([rows])
            ));
        }
        let mut shape = indices.shape.clone();
        if let Some(last) = shape.0.last_mut() {
            *last = width;
        }
        Ok(vec![TensorType::f32(shape)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let (tables, rest) = cx.inputs.split_at(self.pieces(cx.inputs.len()));
        let (Some(g), [indices, weights, rest @ ..]) = (cx.cotangent(), rest) else {
            return cx.none();
        };
        let (scales, mask) = rest.split_at(usize::from(self.format.scaled()));
        let mut hits = *indices;
        if let Some(mask) = mask.first() {
            // What is not trained is not touched either: an optimizer's weight decay would move it.
            let trained = mask.reshape([mask.dim(0), 1]).gather(hits).reshape(hits.shape());
            hits = trained.ne(0).select(hits, u32::MAX);
        }
        let dots = GatherDot { format: self.format }.apply(tables, *indices, g, scales.first().copied());
        let mut grads = row_gradients(self.format, tables, hits, *weights, g);
        grads.extend([None, Some(dots.into())]);
        grads.resize(cx.inputs.len(), None);
        grads
    }

    fn touches(&self, index: usize, inputs: &[Operand]) -> usize {
        picked(index, inputs, self.pieces(inputs.len()))
    }

    fn operations(&self, inputs: &[Operand], _: &[Operand]) -> u64 {
        let pieces = self.pieces(inputs.len());
        2 * (0..pieces).map(|i| self.touches(i, inputs)).max().unwrap_or(0) as u64
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let pieces = self.pieces(cx.inputs.len());
        let (rows, k) = cx.inputs[pieces].shape().rows();
        // Without scales the kernel has something else to bind.
        let scales = if self.format.scaled() { pieces + 2 } else { pieces + 1 };
        let tables = self.format.metas(cx.inputs[..pieces].iter().map(Operand::shape));
        for (piece, table) in tables.into_iter().enumerate() {
            let mut quads = 1;
            let fits = |quads: usize| quads * self.format.parts() <= TOTALS && table.quads().is_multiple_of(quads);
            while cx.caps.software && fits(2 * quads) && rows * table.quads() / (2 * quads) >= SPREAD {
                quads *= 2;
            }
            let n = rows * table.quads() / quads;
            let meta = Meta { table, n: n as u32, k: k as u32 };
            let kernel = if table.wide(self.format) { &WEIGHTED_GATHER_WIDE } else { &WEIGHTED_GATHER };
            let d = cx.dispatch(kernel).constant("FORMAT", self.format.number()).constant("QUADS", quads as f64);
            let d = d.input(piece).input(scales).input(pieces).input(pieces + 1).output(0);
            d.uniform(&meta).workgroups(n.div_ceil(WIDTH))?;
        }
        Ok(())
    }
}

/// Gradients of the pieces of a table of which weighted rows were added up: hit (n, j) adds `weights[n, j] g[n]`. The
/// products stand nowhere. Quantised tables have none.
pub(super) fn row_gradients<'g>(
    format: Format,
    tables: &[Var<'g>],
    indices: Var<'g>,
    weights: Var<'g>,
    g: Var<'g>,
) -> Vec<Option<Cotangent<'g>>> {
    if format != Format::F32 {
        return vec![None; tables.len()];
    }
    let (n, per) = indices.shape().rows();
    let (indices, weights) = (indices.reshape([n * per]), weights.reshape([n * per]));
    let values = g.reshape([n, g.dim(-1)]);
    let mut first = 0;
    let gradient = |table: &Var<'g>| {
        let rows = table.dim(0);
        // Wraps for rows before this piece, which then name none of its rows.
        let indices = if first == 0 { indices } else { indices - first as u32 };
        first += rows;
        Some(Cotangent::Rows(Rows { indices, values, rows, factors: Some(Factors { weights, per }) }))
    };
    tables.iter().map(gradient).collect()
}

impl<'g> Var<'g> {
    /// Weighted sums of rows of a table f32 `[rows, width]`: `y[..] = Σ_j weights[.., j] table[indices[.., j]]`, for
    /// indices u32 and weights f32 `[.., k]`, `[.., width]`. An index that is not below `rows` adds nothing.
    ///
    /// This is the value lookup of a product-key memory (Lample et al. 2019, arXiv 1907.05242), PyTorch's `EmbeddingBag`
    /// with `per_sample_weights`. Rows are read once and added up where they are used, nothing like `[.., k, width]`
    /// stands in memory, neither here nor in the gradient: that of the table is [`Cotangent::Rows`] with weights, that of
    /// the weights the products of the rows with the cotangent. Cost: the hits, whatever the number of rows.
    #[track_caller]
    pub fn weighted_gather(self, indices: Var<'g>, weights: Var<'g>) -> Var<'g> {
        WeightedGather { format: Format::F32, masked: false }.apply(&[self], indices, weights, None, None)
    }

    /// [`weighted_gather`](Self::weighted_gather) that trains only the rows which `trained` (u32 `[rows]`) marks with 1:
    /// same values, and the same gradient of the weights; hits of the other rows are missing from the table's gradient.
    /// An optimizer of touched rows leaves those as they are; a dense one sees gradient 0 there.
    #[track_caller]
    pub fn weighted_gather_masked(self, indices: Var<'g>, weights: Var<'g>, trained: Var<'g>) -> Var<'g> {
        WeightedGather { format: Format::F32, masked: true }.apply(&[self], indices, weights, None, Some(trained))
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    for (rows, width, indices, below) in [
        (1, 1, &[1, 1][..], 1),
        (5, 3, &[4], 6),
        (7, 4, &[2, 3, 5], 10),
        (0, 4, &[3, 2], 2),
        (4, 0, &[3, 2], 4),
        (4, 5, &[0, 3], 4),
        (4, 5, &[3, 0], 4),
        (300, 70, &[61, 33], 303),
        (257, 64, &[31, 7], 260),
        (70_000, 2, &[33, 5], 70_001),
        (2, 1, &[70_001, 2], 3),
        (9, 130, &[3, 517], 10),
        (101, 96, &[701, 6], 103),
    ] {
        let name = format!("weighted_gather [{rows}, {width}] {indices:?}");
        let sample = Sample::new(name, [&[rows, width], indices], |_, x| vec![x[0].weighted_gather(x[2], x[1])]);
        all.push(sample.below(indices, below));
    }
    let twice = Sample::new("weighted_gather used twice", [&[6, 5], &[5, 3], &[4, 3]], |_, x| {
        let table = x[0].tanh();
        let a = table.weighted_gather(x[3], x[1].transpose(0, 1).reshape([5, 3]));
        vec![a.tanh(), table.weighted_gather(x[4], x[2].softmax(1)) + table.gather(x[4].slice(1, 0, 1).reshape([4]))]
    });
    all.push(twice.below(&[5, 3], 7).below(&[4, 3], 6));
    let masked = Sample::new("weighted_gather with trained rows", [&[9, 5], &[7, 4]], |g, x| {
        let trained = x[3].lt(2);
        fn loss(y: Var<'_>) -> Var<'_> {
            (y.tanh() * 0.5).square().sum_all()
        }
        let y = x[0].weighted_gather_masked(x[2], x[1], trained);
        let grads = g.grad(loss(y), &[x[0], x[1]]);
        let plain = g.grad(loss(x[0].weighted_gather(x[2], x[1])), &[x[0]]);
        let mut out: Vec<Var<'_>> = grads.iter().chain(&plain).filter_map(|g| g.dense()).collect();
        let kept = trained.reshape([9, 1]).expand([9, 5]);
        out.push(out[0] - kept.select(out[2], 0.0));
        out.push(y);
        out
    });
    all.push(masked.below(&[7, 4], 9).below(&[9], 3).no_gradient());
    for (name, pieces, width, indices, below) in [
        ("weighted_gather from 3 pieces", [4, 4, 3], 5, [29, 3], 14),
        ("weighted_gather from pieces of one row", [1, 1, 1], 1, [7, 2], 4),
        ("weighted_gather from wide pieces", [3, 3, 1], 130, [67, 9], 7),
        ("weighted_gather of nothing from 3 pieces", [2, 2, 2], 3, [0, 4], 6),
    ] {
        let [a, b, c] = pieces.map(|rows| [rows, width]);
        let sample = Sample::new(name, [&a, &b, &c, &indices], |g, x| {
            let op = WeightedGather { format: Format::F32, masked: false };
            g.apply(op, &[x[0], x[1], x[2], x[4], x[3]])
        });
        all.push(sample.below(&indices, below));
    }
    all
}
