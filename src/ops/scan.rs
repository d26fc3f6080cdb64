//! Exclusive prefix sums of integers, a building block of sorting.

use crate::error::Result;
use crate::kernel;
use crate::kernels::{Buffer, Kernel, Lower};
use encase::ShaderType;

/// Prefix sums within tiles.
pub static SCAN: Kernel = kernel!("select/scan");
/// Sums of tiles.
pub static TILE_SUMS: Kernel = kernel!("select/tile_sums");

/// Integers that one workgroup scans.
const TILE: usize = 1024;

#[derive(ShaderType)]
struct Meta {
    n: u32,
    tiles: u32,
}

/// Replaces the `n` integers of a temporary by the sums of those before them: tiles are added up, their sums scanned,
/// then each tile is scanned from the sum before it. As many levels as `n` needs.
pub(crate) fn exclusive_scan(cx: &mut Lower<'_>, x: Buffer, n: usize) -> Result<()> {
    let tiles = n.div_ceil(TILE);
    let meta = Meta { n: n as u32, tiles: tiles as u32 };
    let sums = cx.temp(tiles.max(1));
    if tiles > 1 {
        let d = cx.dispatch(&TILE_SUMS).read(x).write(sums);
        d.uniform(&meta).workgroups(tiles)?;
        exclusive_scan(cx, sums, tiles)?;
    }
    cx.dispatch(&SCAN)
        .constant("SINGLE", f64::from(u8::from(tiles <= 1)))
        .read(sums)
        .write(x)
        .uniform(&meta)
        .workgroups(tiles)
}
