//! Weighted sums of all rows of a bank: the gradient of their scores.

use super::scores::RowScores;
use super::{Piece, table_rows};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// Sums of chunks of rows.
pub static ROW_SUMS: Kernel = kernel!("bank/row_sums");
/// Adds the chunks up.
pub static SUM_CHUNKS: Kernel = kernel!("bank/sum_chunks");

const WIDTH: usize = 64;
/// Rows of a chunk: sums have a fixed order, whatever the pieces and threads.
const CHUNK: usize = 1024;

/// `sums[b, r, :] = sum_i weights[b n + i, r] * row (b n + i)`. Inputs: the pieces of a table of `b n` rows, weights f32
/// `[b n, R]`. Output: `[b, R, width]`. Gradient: to the weights.
#[derive(Clone, Debug)]
pub(crate) struct RowSums {
    /// Rows of a sample.
    pub n: usize,
    /// Features of a row.
    pub width: usize,
}

#[derive(ShaderType)]
struct Meta {
    first: u32,
    rows: u32,
    width: u32,
    words: u32,
    n: u32,
    len: u32,
    chunks: u32,
    routes: u32,
    groups: u32,
}

#[derive(ShaderType)]
struct Total {
    n: u32,
    each: u32,
    chunks: u32,
}

impl RowSums {
    fn chunks(&self) -> usize {
        self.n.div_ceil(CHUNK).max(1)
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let last = call.inputs.len() - 1;
        let (rows, routes) = (call.inputs[last].shape[0], call.inputs[last].shape[1]);
        let weights = call.f(last);
        let (each, chunks) = (routes * self.width, self.chunks());
        if each == 0 {
            return;
        }
        let mut sums = vec![T::ZERO; rows / self.n * chunks * each];
        for piece in Piece::all(call, last) {
            par::pieces(
                &mut sums,
                each,
                #[inline(always)]
                |start, sums| {
                    let (sample, chunk) = (start / each / chunks, start / each % chunks);
                    let begin = sample * self.n + chunk * CHUNK;
                    let end = (begin + CHUNK).min((sample + 1) * self.n).min(piece.first + piece.rows);
                    let mut buffer = vec![T::ZERO; self.width];
                    for row in begin.max(piece.first)..end {
                        let x = piece.row(row - piece.first, &mut buffer);
                        for (r, sum) in sums.chunks_mut(self.width).enumerate() {
                            let weight = weights[row * routes + r];
                            sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += weight * *x);
                        }
                    }
                },
            );
        }
        for (out, sums) in call.out(0).chunks_mut(each).zip(sums.chunks(each * chunks)) {
            out.fill(T::ZERO);
            for chunk in sums.chunks(each) {
                out.iter_mut().zip(chunk).for_each(|(out, x)| *out += *x);
            }
        }
    }
}

impl Op for RowSums {
    fn name(&self) -> &'static str {
        "row_sums"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let [pieces @ .., weights] = inputs else {
            return Refusal::shape("expected a table and weights");
        };
        weights.require(DType::F32, "weights are floats")?;
        let rows = table_rows(pieces, self.width)?;
        let routes = match weights.shape[..] {
            [count, routes] if count == rows && self.n > 0 && rows % self.n == 0 => routes,
            _ => return Refusal::shape(format!("expected weights [{rows}, R] and samples of {} rows", self.n)),
        };
        Ok(vec![TensorType::f32([rows / self.n, routes, self.width])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let (Some(g), [pieces @ .., _]) = (cx.cotangent(), &cx.inputs[..]) else {
            return cx.none();
        };
        let grad = cx.graph.apply(RowScores { n: self.n }, &[pieces, &[g]].concat())[0];
        let mut grads = vec![None; pieces.len()];
        grads.push(Some(grad.into()));
        grads
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let last = cx.inputs.len() - 1;
        let (rows, routes) = (cx.inputs[last].shape()[0], cx.inputs[last].shape()[1]);
        let (each, chunks, samples) = (routes * self.width, self.chunks(), rows / self.n);
        if samples * each == 0 {
            return Ok(());
        }
        let sums = cx.temp(samples * chunks * each);
        let mut first = 0;
        for piece in 0..last {
            let table = &cx.inputs[piece];
            let (rows, words) = (table.shape()[0], table.shape()[1]);
            let half = table.ty.dtype == DType::U32;
            let groups = words.div_ceil(WIDTH);
            let meta = Meta {
                first: first as u32,
                rows: rows as u32,
                width: self.width as u32,
                words: words as u32,
                n: self.n as u32,
                len: CHUNK as u32,
                chunks: chunks as u32,
                routes: routes as u32,
                groups: groups as u32,
            };
            cx.dispatch(&ROW_SUMS)
                .constant("HALF", f64::from(u8::from(half)))
                .input(piece)
                .input(last)
                .write(sums)
                .uniform(&meta)
                .workgroups(samples * chunks * groups)?;
            first += rows;
        }
        let n = samples * each;
        let meta = Total { n: n as u32, each: each as u32, chunks: chunks as u32 };
        cx.dispatch(&SUM_CHUNKS).read(sums).output(0).uniform(&meta).workgroups(n.div_ceil(WIDTH))
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use super::scores::{CASES, packed, table};
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    for (pieces, n, _, routes, width) in CASES {
        let rows = pieces.iter().sum();
        for half in [false, true] {
            let name = format!("sums of rows {pieces:?} of {width} by {routes}{}", packed(half));
            let sample = Sample::new(name, [&[rows, routes]], move |g, x| {
                let table = table(g, pieces, width, half);
                vec![g.apply(RowSums { n, width }, &[table, x.to_vec()].concat())[0]]
            });
            all.push(sample.tolerance(5e-5));
        }
    }
    all
}
