//! Tables of rows as kernels read them: one after the other in pieces, of floats or packed.

use crate::error::Refusal;
use crate::kernels::CpuCall;
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// How the elements of a table stand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// f32 `[rows, width]`.
    F32,
}

/// As the kernels see a piece.
#[derive(ShaderType, Clone, Copy)]
pub(crate) struct TableMeta {
    /// Row of the whole table that the piece starts with.
    pub first: u32,
    pub rows: u32,
    pub width: u32,
    /// 32-bit words of a row.
    pub words: u32,
}

impl Format {
    /// Number by which kernels know the format.
    pub fn number(self) -> f64 {
        match self {
            Format::F32 => 0.0,
        }
    }

    /// Elements of a row of a piece.
    pub fn width(self, piece: &TensorType) -> usize {
        match self {
            Format::F32 => piece.shape[1],
        }
    }

    /// Refuses pieces that are no table of this format.
    pub fn check(self, pieces: &[TensorType]) -> Result<usize, Refusal> {
        let Some(first) = pieces.first() else {
            return Refusal::shape("expected a table");
        };
        for piece in pieces {
            piece.require(DType::F32, "a table of floats is needed")?;
            if piece.shape.len() != 2 || piece.shape[1] != first.shape[1] {
                return Refusal::shape("expected a table [rows, width]; bring it there with reshape");
            }
        }
        Ok(self.width(first))
    }

    /// The pieces as kernels see them, in order.
    pub fn metas(self, pieces: &[TensorType]) -> Vec<TableMeta> {
        let mut first = 0;
        let meta = |piece: &TensorType| {
            let [rows, words] = [piece.shape[0] as u32, piece.shape[1] as u32];
            let meta = TableMeta { first, rows, width: self.width(piece) as u32, words };
            first += rows;
            meta
        };
        pieces.iter().map(meta).collect()
    }
}

/// A table on the CPU: its first inputs, `pieces` of them.
pub(crate) struct CpuTable<'a, T> {
    width: usize,
    pieces: Vec<&'a [T]>,
}

impl<'a, T: Real> CpuTable<'a, T> {
    pub fn new(call: &CpuCall<'a, T>, pieces: usize) -> Self {
        CpuTable { width: call.inputs[0].shape[1], pieces: (0..pieces).map(|i| call.f(i)).collect() }
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// A row, if there is one of this number.
    pub fn row(&self, index: u32) -> Option<&'a [T]> {
        let mut at = (index as usize).checked_mul(self.width)?;
        for piece in &self.pieces {
            if at < piece.len() {
                return piece.get(at..at + self.width);
            }
            at -= piece.len();
        }
        None
    }
}
