//! What the optimizers of touched rows share: which rows change, and by which factors.

use super::Common;
use crate::error::Result;
use crate::kernel;
use crate::kernels::{Buffer, Kernel, Lower};
use crate::ops::runs::{ENDS, KEYS, RUNS};
use encase::ShaderType;

/// Number of the step and its factors, one hit an invocation.
pub static ROW_FACTORS: Kernel = kernel!("optim/row_factors");

const WIDTH: usize = 64;
/// 32-bit elements of a record.
const RECORD: usize = 6;

#[derive(ShaderType)]
struct Meta {
    n: u32,
    rows: u32,
    max_norm: f32,
    lr_factor: f32,
    ln_beta1: f32,
    ln_beta2: f32,
}

/// Writes a record for each of the sorted hits among the inputs from `first` on: one without end if it names none of
/// `rows` rows. Learning rate, squared norm, gate and, if `ln_betas` are for Adam, progress follow them. `counts` is the
/// output that counts touches of rows, if they are counted.
pub(super) fn row_factors(
    cx: &mut Lower<'_>,
    (first, rows): (usize, usize),
    common: &Common,
    ln_betas: Option<[f64; 2]>,
    counts: Option<usize>,
) -> Result<Buffer> {
    let n = cx.inputs[first + KEYS].numel();
    // Without moments nothing is corrected, whatever the number of the step.
    let [ln_beta1, ln_beta2] = ln_betas.unwrap_or([-1.0; 2]).map(|ln| ln as f32);
    let (max_norm, lr_factor) = (common.max_norm as f32, common.lr_factor as f32);
    let meta = Meta { n: n as u32, rows: rows as u32, max_norm, lr_factor, ln_beta1, ln_beta2 };
    let updates = cx.temp(RECORD * n.max(1));
    // Where rows are not counted the kernel has something else to bind.
    let spare = cx.temp(1);
    let at = first + RUNS;
    let progress = if ln_betas.is_some() { at + 3 } else { at + 2 };
    let d = cx.dispatch(&ROW_FACTORS).constant("COUNTED", f64::from(u8::from(counts.is_some())));
    let d = d.input(first + KEYS).input(first + ENDS).input(at).input(at + 1).input(at + 2).input(progress);
    let d = match counts {
        Some(counts) => d.output(counts),
        None => d.write(spare),
    };
    d.write(updates).uniform(&meta).workgroups(n.div_ceil(WIDTH))?;
    Ok(updates)
}
