//! Products of all rows of a bank with a few queries, in one pass over it.

use super::sums::RowSums;
use super::{Piece, half, table_rows, words};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::dot;
use crate::kernels::{CpuCall, Kernel, Lower, Slice, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// Some invocations a row.
pub static ROW_SCORES: Kernel = kernel!("bank/row_scores");

const WIDTH: usize = 64;
/// Invocations that share a row.
const LANES: usize = 8;
/// Multiply-adds that a task of the CPU has.
const GRAIN: usize = 1 << 15;

/// `scores[i, r] = <row i, queries[i / n, r]>`. Inputs: the pieces of a table of `b n` rows, queries f32 `[b, R, D]`, or
/// `[1, R, D]` for all samples. Output: `[b n, R]`. Gradient: to the queries.
#[derive(Clone, Debug)]
pub(crate) struct RowScores {
    /// Rows of a sample.
    pub n: usize,
}

#[derive(ShaderType)]
struct Meta {
    first: u32,
    rows: u32,
    width: u32,
    words: u32,
    n: u32,
    routes: u32,
    shared_queries: u32,
}

/// [`dot`] of a packed row with a query whose even and odd entries lie apart.
#[inline(always)]
fn packed_dot<T: Real>(row: &[u32], even: &[T], odd: &[T]) -> T {
    let mut sums = [T::ZERO; 16];
    let value = |half: u32| T::of(f64::from(half::from_bits(half)));
    let parts = row.chunks(16).zip(even.chunks(16)).zip(odd.chunks(16));
    for ((row, even), odd) in parts {
        for (((sum, word), even), odd) in sums.iter_mut().zip(row).zip(even).zip(odd) {
            *sum += value(word & 0xffff) * *even + value(word >> 16) * *odd;
        }
    }
    sums.into_iter().sum()
}

/// Even entries of each query, then odd ones, `words` of each.
fn apart<T: Real>(queries: &[T], width: usize) -> Vec<T> {
    let words = words(DType::U32, width);
    let mut all = Vec::with_capacity(queries.len().div_ceil(width.max(1)) * 2 * words);
    for query in queries.chunks(width.max(1)) {
        all.extend(query.iter().step_by(2));
        all.extend(query.iter().skip(1).step_by(2));
        all.resize(all.len().next_multiple_of(2 * words.max(1)), T::ZERO);
    }
    all
}

impl RowScores {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let last = call.inputs.len() - 1;
        let shape = call.inputs[last].shape;
        let (batch, routes, width) = (shape[0], shape[1], shape[2]);
        let queries = call.f(last);
        let words = words(DType::U32, width);
        let packed = call.inputs[..last].iter().any(|piece| matches!(piece.data, Slice::Int(_)));
        let halves = if packed { apart(queries, width) } else { Vec::new() };
        let mut out = call.take(0);
        for piece in Piece::all(call, last) {
            let (part, rest) = std::mem::take(&mut out).split_at_mut(piece.rows * routes);
            out = rest;
            let per = (GRAIN / (width * routes).max(1)).max(1);
            par::pieces(
                part,
                routes * per,
                #[inline(always)]
                |start, part| {
                    for (i, scores) in part.chunks_mut(routes.max(1)).enumerate() {
                        let row = start / routes.max(1) + i;
                        let sample = if batch == 1 { 0 } else { (piece.first + row) / self.n };
                        let at = row * piece.words..(row + 1) * piece.words;
                        for (r, score) in scores.iter_mut().enumerate() {
                            let query = sample * routes + r;
                            *score = match piece.data {
                                Slice::Float(data) => dot(&data[at.clone()], &queries[query * width..][..width]),
                                Slice::Int(data) => {
                                    let (even, odd) = halves[query * 2 * words..][..2 * words].split_at(words);
                                    packed_dot(&data[at.clone()], even, odd)
                                }
                            };
                        }
                    }
                },
            );
        }
    }
}

impl Op for RowScores {
    fn name(&self) -> &'static str {
        "row_scores"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let [pieces @ .., queries] = inputs else {
            return Refusal::shape("expected a table and queries");
        };
        queries.require(DType::F32, "queries are floats")?;
        let [batch, routes, width] = queries.shape[..] else {
            return Refusal::shape("expected queries [b, R, D]");
        };
        let rows = table_rows(pieces, width)?;
        if self.n == 0 || rows % self.n != 0 || (batch != 1 && batch != rows / self.n) {
            return Refusal::shape(format!("{rows} rows, {} a sample, for {batch} samples", self.n));
        }
        Ok(vec![TensorType::f32([rows, routes])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let (Some(g), [pieces @ .., queries]) = (cx.cotangent(), &cx.inputs[..]) else {
            return cx.none();
        };
        let sums = RowSums { n: self.n, width: queries.dim(-1) };
        let grad = cx.graph.apply(sums, &[pieces, &[g]].concat())[0].sum_to(queries.shape());
        let mut grads = vec![None; pieces.len()];
        grads.push(Some(grad.into()));
        grads
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let last = cx.inputs.len() - 1;
        let queries = cx.inputs[last].shape();
        let (batch, routes, width) = (queries[0], queries[1], queries[2]);
        let lanes = if cx.caps.software { 1 } else { LANES };
        let mut first = 0;
        for piece in 0..last {
            let table = &cx.inputs[piece];
            let (rows, words) = (table.shape()[0], table.shape()[1]);
            let half = table.ty.dtype == DType::U32;
            let meta = Meta {
                first: first as u32,
                rows: rows as u32,
                width: width as u32,
                words: words as u32,
                n: self.n as u32,
                routes: routes as u32,
                shared_queries: u32::from(batch == 1),
            };
            cx.dispatch(&ROW_SCORES)
                .constant("HALF", f64::from(u8::from(half)))
                .constant("LANES", lanes as f64)
                .constant("ROUTES", routes.clamp(1, 4) as f64)
                .input(piece)
                .input(last)
                .output(0)
                .uniform(&meta)
                .workgroups(if routes == 0 { 0 } else { rows.div_ceil(WIDTH / lanes) })?;
            first += rows;
        }
        Ok(())
    }
}

/// Cases of tables: rows of the pieces, rows of a sample, samples of the queries, routes, features.
pub(super) const CASES: [(&[usize], usize, usize, usize, usize); 8] = [
    (&[1], 1, 1, 1, 1),
    (&[6], 3, 2, 1, 5),
    (&[4, 4, 2], 5, 2, 3, 33),
    (&[7, 7, 7], 21, 1, 4, 8),
    (&[3, 3], 2, 1, 5, 130),
    (&[0], 4, 1, 2, 3),
    (&[70_001], 70_001, 1, 1, 2),
    (&[1_500, 1_500, 72], 1_024, 3, 2, 7),
];

/// The pieces of a table, packed if `half`: multiples of 1/64 between -3/4 and 3/4, which every executor and a half hold
/// exactly.
pub(super) fn table<'g>(
    g: &'g crate::graph::Graph,
    pieces: &[usize],
    width: usize,
    half: bool,
) -> Vec<crate::graph::Var<'g>> {
    use super::put::PutRows;
    let piece = |(i, &rows): (usize, &usize)| {
        let number = g.iota([rows, width], 0) * 7 + g.iota([rows, width], 1) + i as u32;
        let entries = number.rem(97).to_f32() * (1.0 / 64.0) - 0.75;
        if !half {
            return entries;
        }
        let empty = g.full_u32([rows, super::words(DType::U32, width)], 0);
        g.apply(PutRows { first: 0, gated: false }, &[empty, entries, g.iota([rows], 0)])[0]
    };
    pieces.iter().enumerate().map(piece).collect()
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    for (pieces, n, batch, routes, width) in CASES {
        for half in [false, true] {
            let name = format!("scores of rows {pieces:?} by {batch} x {routes} of {width}{}", packed(half));
            let sample = Sample::new(name, [&[batch, routes, width]], move |g, x| {
                vec![g.apply(RowScores { n }, &[table(g, pieces, width, half), x.to_vec()].concat())[0]]
            });
            all.push(sample.tolerance(5e-5));
        }
    }
    all
}

/// For names of samples.
pub(super) fn packed(half: bool) -> &'static str {
    if half { ", packed" } else { "" }
}
