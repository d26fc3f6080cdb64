//! Banks: large tables of rows, in pieces, that are written in place, scored in one pass, and stored as floats or in half
//! precision. What is stored is detached: no gradient flows into a table, or through it to what was written.
//!
//! ```
//! use wgrad::nn::{BankType, Storage};
//! use wgrad::{Device, Feed, Graph, Store, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let ty = BankType::new(Storage::F16, 1000, 2, 1 << 20)?;
//! let graph = Graph::new();
//! let bank = ty.state(&graph, "history");
//! let rows = graph.constant(Tensor::f32([2, 2], vec![1.0, 2.0, 3.0, 4.0])?);
//! let places = graph.constant(Tensor::u32([2], vec![7, 400])?);
//! bank.assign(rows, places); // for the next run
//! let found = bank.take(places);
//! let device = Device::cpu();
//! let plan = device.compile_blocking(&graph, &[("found", found)])?;
//! let store = Store::new(&device);
//! ty.add_to(&store, "history")?;
//! plan.run(&Feed::new().store(&store))?;
//! assert_eq!(plan.read_blocking("found")?.floats(), [0.0; 4]); // as they were before the run
//! plan.run(&Feed::new().store(&store))?;
//! assert_eq!(plan.read_blocking("found")?.floats(), [1.0, 2.0, 3.0, 4.0]);
//! # Ok(())
//! # }
//! ```

pub mod half;
pub(crate) mod put;
pub(crate) mod scores;
pub(crate) mod sums;
pub(crate) mod unpack;

use crate::error::Refusal;
use crate::kernels::{CpuCall, Slice};
use crate::types::{DType, Real, TensorType};

/// Words that a row of `width` floats takes in a table of this element type: integers hold two halves each.
pub(crate) fn words(dtype: DType, width: usize) -> usize {
    match dtype {
        DType::F32 => width,
        DType::U32 => width.div_ceil(2),
    }
}

/// Rows of a table in pieces, each `[rows, words]` of one element type.
fn table_rows(pieces: &[TensorType], width: usize) -> Result<usize, Refusal> {
    let Some(first) = pieces.first() else {
        return Refusal::shape("expected at least one piece of a table");
    };
    let words = words(first.dtype, width);
    if pieces.iter().any(|p| p.dtype != first.dtype || p.shape.len() != 2 || p.shape[1] != words) {
        return Refusal::shape(format!("rows of {width} features need pieces [rows, {words}] of {}", first.dtype));
    }
    Ok(pieces.iter().map(|p| p.shape[0]).sum())
}

/// A piece of a table on the CPU.
#[derive(Clone, Copy)]
struct Piece<'a, T> {
    data: Slice<'a, T>,
    /// Number of its first row in the table.
    first: usize,
    rows: usize,
    words: usize,
}

impl<'a, T: Real> Piece<'a, T> {
    /// The pieces, which are the first `count` inputs.
    fn all(call: &CpuCall<'a, T>, count: usize) -> Vec<Self> {
        let mut first = 0;
        let piece = |i: usize| {
            let input = &call.inputs[i];
            let data = match input.data {
                Slice::Float(_) => Slice::Float(call.f(i)),
                Slice::Int(_) => Slice::Int(call.u(i)),
            };
            let piece = Piece { data, first, rows: input.shape[0], words: input.shape[1] };
            first += piece.rows;
            piece
        };
        (0..count).map(piece).collect()
    }

    /// Row `i` of the piece; `buffer` takes it where it must be unpacked.
    #[inline(always)]
    fn row<'b>(&self, i: usize, buffer: &'b mut [T]) -> &'b [T]
    where
        'a: 'b,
    {
        let at = i * self.words..(i + 1) * self.words;
        match self.data {
            Slice::Float(data) => &data[at],
            Slice::Int(data) => {
                half::unpack(&data[at], buffer);
                buffer
            }
        }
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    [put::samples, scores::samples, sums::samples, unpack::samples].into_iter().flat_map(|f| f()).collect()
}
