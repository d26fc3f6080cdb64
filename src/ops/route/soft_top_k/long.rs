//! Few and long rows: several workgroups a row, one dispatch an iteration. The sums of a row's pieces are added up again by
//! every workgroup of the next dispatch, in the same order.

use super::exact::Exact;
use super::iterations::Descent;
use crate::error::Result;
use crate::kernel;
use crate::kernels::{Kernel, Lower, Place};
use encase::ShaderType;

/// An iteration of the coordinate descent.
pub static DESCENT_LONG: Kernel = kernel!("route/descent_long");
/// A step of the search for the fixed point.
pub static EXACT_LONG: Kernel = kernel!("route/exact_long");

/// Shorter rows are left to one workgroup, and so are rows from this number on.
const LONG: usize = 8192;
const FEW_ROWS: usize = 128;
/// Scores of a piece, and pieces of a row: every workgroup reads the sums of all pieces.
const PIECE: usize = 2048;
const PIECES: usize = 256;
/// Steps that find the start of the search, four bits each.
const DIGITS: usize = 8;
/// Steps that the clipped set may take here; eight were the most that adversarial rows needed.
const PASSES: usize = 16;
/// Numbers of a row's state in the search, and of a piece's counts.
const FIELDS: usize = 6;
const COUNTS: usize = 16;

#[derive(ShaderType)]
struct DescentMeta {
    rows: u32,
    n: u32,
    iterations: u32,
    relu: u32,
    masked: u32,
    counts: u32,
    pieces: u32,
    len: u32,
    step: u32,
}

#[derive(ShaderType)]
struct ExactMeta {
    rows: u32,
    n: u32,
    masked: u32,
    counts: u32,
    passes: u32,
    e: f32,
    pieces: u32,
    len: u32,
    step: u32,
}

/// How rows are cut.
pub struct Pieces {
    rows: usize,
    n: usize,
    pieces: usize,
    len: usize,
}

/// Cuts rows that are few and long.
pub fn cut(rows: usize, n: usize) -> Option<Pieces> {
    if n < LONG || rows >= FEW_ROWS {
        return None;
    }
    let pieces = n.div_ceil(PIECE).min(PIECES);
    Some(Pieces { rows, n, pieces, len: n.div_ceil(pieces) })
}

impl Descent {
    pub fn lower_long(&self, cx: &mut Lower<'_>, p: &Pieces) -> Result<()> {
        let groups = p.rows * p.pieces;
        let short = self.meta(p.rows, p.n, cx.inputs[1].numel());
        // Of a piece: two numbers, then four of each of two iterations.
        let pairs = cx.temp(10 * groups);
        let steps = self.iterations() + 1;
        for step in 0..=steps {
            // The first iteration of the newer start does not look at the scores.
            if step == 1 && short.relu == 0 {
                continue;
            }
            let meta = DescentMeta {
                rows: short.rows,
                n: short.n,
                iterations: short.iterations,
                relu: short.relu,
                masked: short.masked,
                counts: short.counts,
                pieces: p.pieces as u32,
                len: p.len as u32,
                step: step as u32,
            };
            cx.dispatch(&DESCENT_LONG)
                .input(0)
                .input(if self.masked { 3 } else { 0 })
                .input(1)
                .input(2)
                .output(1)
                .write(pairs)
                .output(0)
                .uniform(&meta)
                .workgroups(groups)?;
        }
        Ok(())
    }
}

impl Exact {
    pub fn lower_long(&self, cx: &mut Lower<'_>, p: &Pieces) -> Result<()> {
        let groups = p.rows * p.pieces;
        let steps = DIGITS + PASSES;
        let states = cx.temp(p.rows * (steps + 1) * FIELDS);
        let sums = [(); 2].map(|()| Place::Temp(cx.temp(COUNTS * groups)));
        for step in 0..=steps {
            let meta = ExactMeta {
                rows: p.rows as u32,
                n: p.n as u32,
                masked: u32::from(self.masked),
                counts: u32::from(cx.inputs[1].numel() > 1),
                passes: PASSES as u32,
                e: self.eps,
                pieces: p.pieces as u32,
                len: p.len as u32,
                step: step as u32,
            };
            let before = if step == 0 { Place::Input(0) } else { sums[(step - 1) % 2] };
            let out = if step == steps { Place::Output(0) } else { sums[step % 2] };
            cx.dispatch(&EXACT_LONG)
                .input(0)
                .input(if self.masked { 2 } else { 0 })
                .input(1)
                .write(states)
                .read_from(before)
                .write_to(out)
                .output(1)
                .uniform(&meta)
                .workgroups(groups)?;
        }
        Ok(())
    }
}
