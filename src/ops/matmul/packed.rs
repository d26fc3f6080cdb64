//! Products on software drivers. A load costs as much as many multiply-adds there, whatever it hits, so an invocation keeps a
//! block of outputs in registers, and both operands are packed into panels that are read from end to end.

use super::Batches;
use crate::error::Result;
use crate::kernel;
use crate::kernels::{Buffer, Kernel, Lower, Place};
use encase::ShaderType;
use glam::UVec4;

/// Panels of an operand.
pub static PACK: Kernel = kernel!("matmul/pack");
/// 16 x 16 outputs an invocation.
pub static BLOCKS: Kernel = kernel!("matmul/blocks");
/// 16 x 8 outputs an invocation; those of a subgroup share the left operand's panel.
#[cfg(not(target_arch = "wasm32"))]
pub static BLOCKS_SHARED: Kernel = kernel!("matmul/blocks_shared");

const WIDTH: usize = 64;
/// Depths that an invocation packs.
const DEPTHS: usize = 16;
/// Invocations of a workgroup of blocks, and of a subgroup that can share.
const LANES: usize = 8;
/// Multiply-adds below which packing does not pay.
const LEAST: usize = 1 << 15;

#[derive(ShaderType)]
struct PackMeta {
    rows: u32,
    depth: u32,
    batches: u32,
    offset: u32,
    row: u32,
    col: u32,
    dims: UVec4,
    batch: UVec4,
}

#[derive(ShaderType)]
struct BlockMeta {
    rows: u32,
    cols: u32,
    depth: u32,
    batches: u32,
    a_batches: u32,
    b_batches: u32,
    c_row: u32,
    c_col: u32,
}

/// An operand: rows (of the right one, columns), their stride, that of the depth, and where a batch entry starts.
struct Side<'a> {
    place: Place,
    lead: usize,
    rows: usize,
    strides: [usize; 2],
    batch: &'a [usize],
    /// Rows of a panel.
    panel: usize,
}

impl Side<'_> {
    /// Batch entries that differ.
    fn entries(&self, s: &Batches) -> usize {
        if self.batch.iter().all(|stride| *stride == 0) { 1 } else { s.count() }
    }

    fn size(&self, s: &Batches) -> usize {
        self.entries(s) * self.rows.next_multiple_of(self.panel) * s.k
    }

    fn pack(&self, cx: &mut Lower<'_>, s: &Batches) -> Result<Buffer> {
        let to = cx.temp(self.size(s));
        let entries = self.entries(s);
        let meta = PackMeta {
            rows: self.rows as u32,
            depth: s.k as u32,
            batches: entries as u32,
            offset: self.lead as u32,
            row: self.strides[0] as u32,
            col: self.strides[1] as u32,
            dims: super::pack(&s.dims, 1),
            batch: super::pack(self.batch, 0),
        };
        let count = entries * self.rows.next_multiple_of(self.panel) / 4 * s.k.div_ceil(DEPTHS);
        let d = cx.dispatch(&PACK).constant("PANEL", self.panel as f64).read_from(self.place);
        d.write_to(Place::Temp(to)).uniform(&meta).workgroups(count.div_ceil(WIDTH))?;
        Ok(to)
    }
}

/// Whether invocations of a subgroup share the left operand.
fn shares(cx: &Lower<'_>) -> bool {
    cfg!(not(target_arch = "wasm32")) && cx.caps.subgroup as usize == LANES
}

/// Both operands, in the order in which the kernel has them, and whether it computes the product of the transposes.
fn sides<'a>(cx: &Lower<'_>, s: &'a Batches, [x, y]: [(Place, usize); 2]) -> (Side<'a>, Side<'a>, bool) {
    let shares = shares(cx);
    let side = |right: bool, panel| match right {
        false => Side { place: x.0, lead: x.1, rows: s.m, strides: s.a, batch: &s.a_batch, panel },
        true => Side { place: y.0, lead: y.1, rows: s.n, strides: [s.b[1], s.b[0]], batch: &s.b_batch, panel },
    };
    // The transposes where fewer lanes lie behind the last column that way.
    let padded = |rows: usize, cols: usize| rows.next_multiple_of(16) * cols.next_multiple_of(LANES * 8);
    let swap = shares && padded(s.n, s.m) < padded(s.m, s.n);
    (side(swap, 16), side(!swap, if shares { 8 } else { 16 }), swap)
}

/// Lowers the product if it is one that packing helps.
pub(super) fn lower(cx: &mut Lower<'_>, s: &Batches) -> Result<bool> {
    if !cx.caps.software || s.m.min(s.n) < 8 || s.m * s.n * s.k < LEAST {
        return Ok(false);
    }
    let sources = [0, 1].map(|i| (Place::Input(i), cx.lead(&cx.inputs[i])));
    let (a, b, _) = sides(cx, s, sources);
    if a.size(s).max(b.size(s)) as u64 * 4 > cx.caps.binding_bytes {
        return Ok(false);
    }
    product(cx, s, sources, Place::Output(0))?;
    Ok(true)
}

/// The product of two operands, each with the place of its binding and its first element there.
pub(crate) fn product(cx: &mut Lower<'_>, s: &Batches, sources: [(Place, usize); 2], to: Place) -> Result<()> {
    let (a, b, swap) = sides(cx, s, sources);
    let (pa, pb) = (a.pack(cx, s)?, b.pack(cx, s)?);
    let meta = BlockMeta {
        rows: a.rows as u32,
        cols: b.rows as u32,
        depth: s.k as u32,
        batches: s.count() as u32,
        a_batches: a.entries(s) as u32,
        b_batches: b.entries(s) as u32,
        c_row: if swap { 1 } else { s.n as u32 },
        c_col: if swap { s.n as u32 } else { 1 },
    };
    let shares = shares(cx);
    let (down, across) = (a.rows.div_ceil(a.panel), b.rows.div_ceil(b.panel));
    let blocks = match shares {
        true => s.count() * down * across.div_ceil(LANES),
        false => (s.count() * down * across).div_ceil(LANES),
    };
    #[cfg(not(target_arch = "wasm32"))]
    let kernel = if shares { &BLOCKS_SHARED } else { &BLOCKS };
    #[cfg(target_arch = "wasm32")]
    let kernel = &BLOCKS;
    cx.dispatch(kernel).read(pa).read(pb).write_to(to).uniform(&meta).workgroups(blocks)
}
