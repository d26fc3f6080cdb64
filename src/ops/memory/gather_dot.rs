//! Products of vectors with chosen rows of a table: the gradient of the weights of weighted sums of rows.

use super::table::{CpuRow, CpuTable, Format, TableMeta};
use super::weighted_gather::{WeightedGather, row_gradients};
use crate::error::{Refusal, Result, Where};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::dot;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::ops::gather::picked;
use crate::types::{DType, Operand, Real, TensorType};
use encase::ShaderType;

/// A product by some lanes of a workgroup, or some products by one.
pub static GATHER_DOT: Kernel = kernel!("memory/gather_dot");
/// The same for rows of full fours of words.
pub static GATHER_DOT_WIDE: Kernel = kernel!("memory/gather_dot_wide");

const WIDTH: usize = 64;
/// Elements that one thread reads at a time on the CPU.
const GRAIN: usize = 1 << 15;
/// Lanes that share a product where barriers are cheap.
const LANES: usize = 8;

/// `y[.., j] = table[indices[.., j]] · vectors[..]`, 0 for an index that names no row. Inputs: the pieces of the table,
/// indices `[.., k]`, vectors `[.., width]`, scales if the format has any.
#[derive(Clone, Debug)]
pub(crate) struct GatherDot {
    pub format: Format,
}

#[derive(ShaderType)]
struct Meta {
    table: TableMeta,
    n: u32,
    k: u32,
}

/// A vector's product with a row; `unpacked` is room for it.
#[inline(always)]
fn product<T: Real>(row: CpuRow<'_, T>, vector: &[T], unpacked: &mut Vec<T>) -> T {
    match row {
        CpuRow::Floats(row) => dot(row, vector),
        row => {
            unpacked.clear();
            unpacked.resize(vector.len(), T::ZERO);
            row.add_to(T::ONE, unpacked);
            dot(unpacked, vector)
        }
    }
}

impl GatherDot {
    /// Products with rows of a table in pieces.
    #[track_caller]
    pub fn apply<'g>(self, pieces: &[Var<'g>], indices: Var<'g>, vectors: Var<'g>, scales: Option<Var<'g>>) -> Var<'g> {
        let mut inputs = pieces.to_vec();
        inputs.extend([indices, vectors]);
        inputs.extend(scales);
        indices.graph().apply_at(std::sync::Arc::new(self), &inputs, Where::caller())[0]
    }

    /// Number of pieces of the table among so many inputs.
    fn pieces(&self, inputs: usize) -> usize {
        inputs.saturating_sub(2 + usize::from(self.format.scaled()))
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let pieces = self.pieces(call.inputs.len());
        let table = CpuTable::new(call, self.format, pieces, pieces + 2);
        let (indices, vectors) = (call.u(pieces), call.f(pieces + 1));
        let (_, k) = call.inputs[pieces].shape.rows();
        let (width, group) = (table.width(), table.group());
        let per = (GRAIN / (k * (width + 1)).max(1)).max(1);
        par::pieces(
            call.out(0),
            per * k,
            #[inline(always)]
            |start, piece| {
                let (end, mut unpacked) = (start + piece.len(), Vec::new());
                for (i, out) in piece.chunks_mut(k).enumerate() {
                    let n = start / k + i;
                    let vector = &vectors[n * width..(n + 1) * width];
                    for (from, out) in (n * k..).step_by(group).zip(out.chunks_mut(group)) {
                        let to = from + out.len();
                        table.ask(&indices[to..end.min(to.saturating_add(group))]);
                        for (out, i) in out.iter_mut().zip(&indices[from..to]) {
                            *out = table.row(*i).map_or(T::ZERO, |row| product(row, vector, &mut unpacked));
                        }
                    }
                }
            },
        );
    }
}

impl Op for GatherDot {
    fn name(&self) -> &'static str {
        "gather_dot"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (tables, rest) = inputs.split_at(self.pieces(inputs.len()));
        let [indices, vectors, scales @ ..] = rest else {
            return Refusal::shape("expected a table, indices and vectors");
        };
        let [_, width] = self.format.check(tables, scales.first())?;
        indices.require(DType::U32, "indices are integers; convert with to_u32")?;
        vectors.require(DType::F32, "vectors are floats; convert with to_f32")?;
        let mut expected = indices.shape.clone();
        let Some(last) = expected.0.last_mut() else {
            return Refusal::shape("expected indices [.., k]");
        };
        *last = width;
        if vectors.shape != expected {
            return Refusal::shape(format!("expected vectors {expected} for indices {}", indices.shape));
        }
        Ok(vec![TensorType::f32(indices.shape.clone())])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let (tables, rest) = cx.inputs.split_at(self.pieces(cx.inputs.len()));
        let (Some(g), [indices, vectors, scales @ ..]) = (cx.cotangent(), rest) else {
            return cx.none();
        };
        let op = WeightedGather { format: self.format, masked: false };
        let sums = op.apply(tables, *indices, g, scales.first().copied(), None);
        let mut grads = row_gradients(self.format, tables, *indices, g, *vectors);
        grads.extend([None, Some(sums.into())]);
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
        let (_, k) = cx.inputs[pieces].shape().rows();
        let n = cx.outputs[0].numel();
        // Without scales the kernel has something else to bind.
        let scales = if self.format.scaled() { pieces + 2 } else { pieces + 1 };
        let tables = self.format.metas(cx.inputs[..pieces].iter().map(Operand::shape));
        let lanes = if cx.caps.software { 1 } else { LANES };
        // Entries of a vector are loaded once for so many rows.
        let hits = if cx.caps.software && k.is_multiple_of(4) { 4 } else { 1 };
        for (piece, table) in tables.into_iter().enumerate() {
            let kernel = if table.wide(self.format) { &GATHER_DOT_WIDE } else { &GATHER_DOT };
            let meta = Meta { table, n: n as u32, k: k as u32 };
            let d = cx.dispatch(kernel).constant("FORMAT", self.format.number()).constant("LANES", lanes as f64);
            let d = d.constant("HITS", hits as f64);
            let d = d.input(piece).input(scales).input(pieces).input(pieces + 1).output(0);
            d.uniform(&meta).workgroups((n / hits * lanes).div_ceil(WIDTH))?;
        }
        Ok(())
    }
}

impl<'g> Var<'g> {
    /// Products of vectors with chosen rows of a table f32 `[rows, width]`: `y[.., j] = table[indices[.., j]] · vectors[..]`
    /// for indices u32 `[.., k]` and vectors f32 `[.., width]`, `[.., k]`. An index that names no row gives 0. Gradient:
    /// [`weighted_gather`](Self::weighted_gather), and [`Cotangent::Rows`] for the table.
    #[track_caller]
    pub fn gather_dot(self, indices: Var<'g>, vectors: Var<'g>) -> Var<'g> {
        GatherDot { format: Format::F32 }.apply(&[self], indices, vectors, None)
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    for (rows, width, indices, below) in [
        (1, 1, &[1][..], 1),
        (7, 5, &[2, 3, 4], 9),
        (3, 2, &[0, 4], 3),
        (3, 2, &[4, 0], 3),
        (0, 3, &[2, 2], 2),
        (3, 0, &[2, 2], 2),
        (300, 70, &[41, 33], 303),
        (9, 517, &[3, 9], 10),
        (101, 96, &[71, 8], 103),
        (33, 7, &[17, 12], 35),
        (5, 3, &[70_001, 1], 6),
    ] {
        let mut vectors = indices.to_vec();
        vectors[indices.len() - 1] = width;
        let name = format!("gather_dot [{rows}, {width}] {indices:?}");
        let sample = Sample::new(name, [&[rows, width], &vectors], |_, x| vec![x[0].gather_dot(x[2], x[1])]);
        all.push(sample.below(indices, below));
    }
    let pieces = Sample::new("gather_dot from 3 pieces", [&[4, 6], &[4, 6], &[3, 6], &[9, 6]], |g, x| {
        g.apply(GatherDot { format: Format::F32 }, &[x[0], x[1], x[2], x[4], x[3]])
    });
    all.push(pieces.below(&[9, 5], 12));
    all
}
