//! Rows written into a bank in place, at places known only at run time.

use super::{half, words};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, SharedOp, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, SliceMut};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;
use std::sync::Arc;

/// A word an invocation.
pub static PUT_ROWS: Kernel = kernel!("bank/put_rows");

const WIDTH: usize = 64;

/// `table[places[r] - first, :] = rows[r, :]`, where the piece has that row; no place may come twice. Inputs: the piece
/// `[P, words]`, rows f32 `[R, D]`, places u32 `[R]`, and with `gated` the gate (u32 scalar). Updates the piece in place;
/// nothing carries a gradient.
#[derive(Clone, Debug)]
pub(crate) struct PutRows {
    /// Number of the piece's first row.
    pub first: u32,
    /// Whether there is a gate.
    pub gated: bool,
}

#[derive(ShaderType)]
struct Meta {
    n: u32,
    width: u32,
    words: u32,
    first: u32,
    rows: u32,
    gated: u32,
}

impl PutRows {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        if self.gated && call.u(3).first() == Some(&0) {
            return;
        }
        let [count, width] = [call.inputs[1].shape[0], call.inputs[1].shape[1]];
        let [rows, words] = [call.outputs[0].shape[0], call.outputs[0].shape[1]];
        let (values, places) = (call.f(1), call.u(2));
        for r in 0..count {
            let row = places[r].wrapping_sub(self.first) as usize;
            if row >= rows {
                continue;
            }
            let (from, to) = (&values[r * width..(r + 1) * width], row * words..(row + 1) * words);
            match &mut call.outputs[0].data {
                SliceMut::Float(out) => out[to].copy_from_slice(from),
                SliceMut::Int(out) => half::pack(from, &mut out[to]),
            }
        }
    }
}

impl Op for PutRows {
    fn name(&self) -> &'static str {
        "put_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (piece, rows, places) = (&inputs[0], &inputs[1], &inputs[2]);
        rows.require(DType::F32, "rows are floats; the table packs them itself")?;
        if rows.shape.len() != 2 || piece.shape.len() != 2 || piece.shape[1] != words(piece.dtype, rows.shape[1]) {
            return Refusal::shape("expected rows [R, D] for a table of as many features");
        }
        if places.dtype != DType::U32 || places.shape[..] != rows.shape[..1] {
            return Refusal::shape(format!("expected one place a row, u32[{}], got {places}", rows.shape[0]));
        }
        if self.gated && inputs[3] != TensorType::u32([]) {
            return Refusal::shape(format!("the gate is one u32, got {}", inputs[3]));
        }
        Ok(vec![piece.clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn minds_gate(&self) -> bool {
        self.gated
    }

    fn with_gate(&self) -> Option<SharedOp> {
        Some(Arc::new(PutRows { gated: true, ..self.clone() }))
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, table) = (cx.inputs[1].shape(), &cx.outputs[0]);
        let (n, width, words) = (rows[0], rows[1], table.shape()[1]);
        let meta = Meta {
            n: n as u32,
            width: width as u32,
            words: words as u32,
            first: self.first,
            rows: table.shape()[0] as u32,
            gated: u32::from(self.gated),
        };
        let half = table.ty.dtype == DType::U32;
        cx.dispatch(&PUT_ROWS)
            .constant("HALF", f64::from(u8::from(half)))
            .input(1)
            .input(2)
            .input(if self.gated { 3 } else { 2 })
            .output(0)
            .uniform(&meta)
            .workgroups((n * words).div_ceil(WIDTH))
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    for (n, rows, width, first) in [
        (1, 1, 1, 0),
        (5, 7, 4, 0),
        (4, 3, 5, 2),
        (0, 3, 2, 0),
        (3, 0, 2, 0),
        (2, 70_000, 1, 1),
        (70_001, 11, 3, 69_990),
    ] {
        for half in [false, true] {
            let name = format!("put {n} rows of {width} into {rows} from {first}{}", if half { " packed" } else { "" });
            let sample = Sample::new(name, [&[rows, width], &[n, width]], move |g, x| {
                let ty = if half { DType::U32 } else { DType::F32 };
                let table = if half { g.full_u32([rows, words(ty, width)], 9) } else { x[0] };
                // Every place once, in another order, one of them nowhere.
                let places = (g.iota([n], 0) + 3).rem(n as u32 + 1);
                let put = |gated, gate: &[_]| {
                    let inputs = [&[table, x[1], places], gate].concat();
                    g.apply(PutRows { first, gated }, &inputs)[0]
                };
                vec![put(false, &[]), put(true, &[g.full_u32([], 0)]), put(true, &[g.full_u32([], 2)])]
            });
            all.push(sample.no_gradient());
        }
    }
    all
}
