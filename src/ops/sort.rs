//! Stable radix sort of (key, position) pairs.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let keys = graph.constant(Tensor::u32([4], vec![3, 1, 2, 1])?);
//! let (sorted, from) = keys.sort_pairs(None);
//! let plan = Device::cpu().compile_blocking(&graph, &[("sorted", sorted), ("from", from)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("sorted")?.ints(), [1, 1, 2, 3]);
//! assert_eq!(plan.read_blocking("from")?.ints(), [1, 3, 2, 0]);
//! # Ok(())
//! # }
//! ```

use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, Place, par};
use crate::ops::scan::exclusive_scan;
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// Digits of each tile.
pub static COUNT: Kernel = kernel!("select/radix_count");
/// Moves by one digit.
pub static PLACE: Kernel = kernel!("select/radix_place");

/// Keys that one workgroup moves.
const TILE: usize = 1024;
/// Bits of a digit.
const BITS: u32 = 4;

/// Keys `[n]` in ascending order and where each came from; equal keys keep their order. Keys above `limit` count as
/// `limit`; only the bits of `limit` are sorted by.
#[derive(Clone, Debug)]
struct SortPairs {
    limit: u32,
}

#[derive(ShaderType)]
struct Meta {
    n: u32,
    tiles: u32,
    rows: u32,
    shift: u32,
    limit: u32,
}

/// Keys and positions.
pub(crate) type Pairs = [Place; 2];

/// Passes that sort by all bits of `limit`.
fn passes(limit: u32) -> u32 {
    (u32::BITS - limit.leading_zeros()).div_ceil(BITS).max(1)
}

/// Sorts each row of `keys` `[rows, n]` into `to`, keys and their places in the row before, by the bits of `limit`. Passes
/// alternate between `to` and `spare` so that the last one ends in `to`; with a single pass `spare` is not used.
pub(crate) fn sort_rows(
    cx: &mut Lower<'_>,
    [rows, n]: [usize; 2],
    limit: u32,
    keys: Place,
    spare: Pairs,
    to: Pairs,
) -> Result<()> {
    let tiles = n.div_ceil(TILE);
    let digits = (rows * tiles) << BITS;
    let passes = passes(limit);
    let target = |pass: u32| if (passes - pass) % 2 == 1 { to } else { spare };
    for pass in 0..passes {
        let [keys, positions] = if pass == 0 { [keys; 2] } else { target(pass - 1) };
        let [sorted, moved] = target(pass);
        let meta = Meta { n: n as u32, tiles: tiles as u32, rows: rows as u32, shift: pass * BITS, limit };
        let counts = cx.temp(digits);
        let d = cx.dispatch(&COUNT).read_from(keys).write(counts);
        d.uniform(&meta).workgroups(rows * tiles)?;
        exclusive_scan(cx, counts, digits)?;
        cx.dispatch(&PLACE)
            .constant("FIRST", f64::from(u8::from(pass == 0)))
            .read_from(keys)
            .read_from(positions)
            .read(counts)
            .write_to(sorted)
            .write_to(moved)
            .uniform(&meta)
            .workgroups(rows * tiles)?;
    }
    Ok(())
}

impl SortPairs {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let keys = call.u(0);
        // Pairs are distinct, so any sort of them is a stable sort of the keys.
        let mut pairs: Vec<u64> =
            (0u64..).zip(keys).map(|(i, key)| u64::from((*key).min(self.limit)) << 32 | i).collect();
        par::sort(&mut pairs);
        for (out, pair) in call.out_u(0).iter_mut().zip(&pairs) {
            *out = (pair >> 32) as u32;
        }
        for (out, pair) in call.out_u(1).iter_mut().zip(&pairs) {
            *out = *pair as u32;
        }
    }
}

impl Op for SortPairs {
    fn name(&self) -> &'static str {
        "sort_pairs"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let keys = &inputs[0];
        keys.require(DType::U32, "keys are integers; convert with to_u32")?;
        if keys.shape.len() != 1 {
            return Refusal::shape("expected keys [n]; flatten them with reshape");
        }
        Ok(vec![keys.clone(), keys.clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.inputs[0].numel();
        if n == 0 {
            return Ok(());
        }
        let to = [Place::Output(0), Place::Output(1)];
        let spare = if passes(self.limit) > 1 { [cx.temp(n), cx.temp(n)].map(Place::Temp) } else { to };
        sort_rows(cx, [1, n], self.limit, Place::Input(0), spare, to)
    }
}

impl<'g> Var<'g> {
    /// Stable sort of keys u32 `[n]`: the keys in ascending order, and the position each had (both u32 `[n]`). Equal
    /// keys keep their order. With a `limit`, larger keys count as `limit` and so come last, and only as many bits as
    /// `limit` has are sorted by, 4 a pass (radix sort after Satish, Harris and Garland 2009). No gradient.
    #[track_caller]
    pub fn sort_pairs(self, limit: Option<u32>) -> (Var<'g>, Var<'g>) {
        let limit = limit.unwrap_or(u32::MAX);
        let sorted = self.graph().apply(SortPairs { limit }, &[self]);
        (sorted[0], sorted[1])
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    [
        (0, 10, None),
        (1, 10, Some(10)),
        (2, 1, Some(0)),
        (1023, 5, Some(3)),
        (1025, 1 << 31, None),
        (5003, 300, Some(299)),
        (70_001, 40_000, Some(30_000)),
        (1_100_000, 17, Some(16)),
    ]
    .into_iter()
    .map(|(n, below, limit)| {
        Sample::new(format!("sort_pairs {n} {limit:?}"), [], move |_, x| {
            let (keys, positions) = x[0].sort_pairs(limit);
            vec![keys, positions]
        })
        .below(&[n], below)
        .no_gradient()
    })
    .collect()
}
