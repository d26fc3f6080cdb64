//! Tables of rows as kernels read them: one after the other in pieces, of floats or packed.

use crate::error::Refusal;
use crate::kernels::CpuCall;
use crate::types::{DType, Real, Shape, TensorType};
use encase::ShaderType;
use std::hint::black_box;

/// How the elements of a table stand in memory. Packed rows are whole words, element 0 in the lowest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// f32 `[rows, width]`.
    F32,
    /// Two halves in a word.
    F16 { width: usize },
    /// Four bytes in a word, which stand for -1 to 1 times the scale of the row.
    Int8 { width: usize },
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

impl TableMeta {
    /// Fours of words that a row has, the last one filled up.
    pub fn quads(&self) -> usize {
        self.words.div_ceil(4) as usize
    }

    /// Whether rows are full fours of words, to be loaded as such.
    pub fn wide(&self, format: Format) -> bool {
        self.rows > 0
            && self.words > 0
            && self.words.is_multiple_of(4)
            && self.width as usize == self.words as usize * format.parts()
    }
}

impl Format {
    /// Elements of a word.
    pub fn parts(self) -> usize {
        match self {
            Format::F32 => 1,
            Format::F16 { .. } => 2,
            Format::Int8 { .. } => 4,
        }
    }

    /// Number by which kernels know the format.
    pub fn number(self) -> f64 {
        match self {
            Format::F32 => 0.0,
            Format::F16 { .. } => 1.0,
            Format::Int8 { .. } => 2.0,
        }
    }

    /// Whether rows have scales, f32 `[rows]`.
    pub fn scaled(self) -> bool {
        matches!(self, Format::Int8 { .. })
    }

    fn dtype(self) -> DType {
        if self == Format::F32 { DType::F32 } else { DType::U32 }
    }

    /// Elements of a row, of a piece of this shape.
    fn width(self, piece: &Shape) -> usize {
        match self {
            Format::F32 => piece[1],
            Format::F16 { width } | Format::Int8 { width } => width,
        }
    }

    /// 32-bit words of a row of so many elements.
    pub fn words(self, width: usize) -> usize {
        width.div_ceil(self.parts())
    }

    /// Refuses pieces, and scales if there are any, that are no table of this format; rows and elements of a row.
    pub fn check(self, pieces: &[TensorType], scales: Option<&TensorType>) -> Result<[usize; 2], Refusal> {
        let Some(first) = pieces.first() else {
            return Refusal::shape("expected a table");
        };
        for piece in pieces {
            piece.require(self.dtype(), "floats are f32, quantised rows u32")?;
            if piece.shape.len() != 2 || piece.shape[1] != first.shape[1] {
                return Refusal::shape("expected a table [rows, width]; bring it there with reshape");
            }
        }
        let [rows, width] = [pieces.iter().map(|p| p.shape[0]).sum(), self.width(&first.shape)];
        if self.words(width) != first.shape[1] {
            return Refusal::shape(format!("rows of {width} elements have {} words", self.words(width)));
        }
        if scales.is_some() != self.scaled() || scales.is_some_and(|s| *s != TensorType::f32([rows])) {
            return Refusal::shape("expected one scale, f32, for each row of bytes");
        }
        Ok([rows, width])
    }

    /// The pieces as kernels see them, in order.
    pub fn metas<'a>(self, pieces: impl Iterator<Item = &'a Shape>) -> Vec<TableMeta> {
        let mut first = 0;
        let meta = |piece: &Shape| {
            let [rows, words] = [piece[0] as u32, piece[1] as u32];
            let meta = TableMeta { first, rows, width: self.width(piece) as u32, words };
            first += rows;
            meta
        };
        pieces.map(meta).collect()
    }
}

/// Value of a half; without branches, so that loops vectorise.
#[inline(always)]
pub(crate) fn half(bits: u32) -> f32 {
    // Exponents differ by 112, also below the normal range; infinity and NaN keep the largest.
    let shifted = (bits & 0x7fff) << 13;
    let scaled = f32::from_bits(shifted) * f32::from_bits((127 + 112) << 23);
    let special = if shifted >= 0x7c00 << 13 { 0xff << 23 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
}

/// Value of a byte of a row with scale 127.
#[inline(always)]
fn byte(word: u32, i: usize) -> f32 {
    f32::from((word >> (8 * i)) as i8).max(-127.0)
}

/// A table on the CPU: the first inputs, `pieces` of them.
pub(crate) struct CpuTable<'a, T> {
    format: Format,
    width: usize,
    /// Words of a row.
    words: usize,
    floats: Vec<&'a [T]>,
    packed: Vec<&'a [u32]>,
    scales: &'a [T],
    far: bool,
}

/// One row of a table, and a factor on its elements.
#[derive(Clone, Copy)]
pub(crate) enum CpuRow<'a, T> {
    Floats(&'a [T]),
    Halves(&'a [u32]),
    Bytes(&'a [u32], T),
}

impl<'a, T: Real> CpuTable<'a, T> {
    /// `scales` is the input that holds scales, if the format has any.
    pub fn new(call: &CpuCall<'a, T>, format: Format, pieces: usize, scales: usize) -> Self {
        let shape = call.inputs[0].shape;
        CpuTable {
            format,
            width: format.width(shape),
            words: shape[1],
            floats: (0..pieces).map(|i| call.f(i)).collect(),
            packed: (0..pieces).map(|i| call.u(i)).collect(),
            scales: if format.scaled() { call.f(scales) } else { &[] },
            far: call.inputs[..pieces].iter().map(|piece| piece.shape.numel()).sum::<usize>() >= FAR,
        }
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// A row, if there is one of this number.
    #[inline(always)]
    pub fn row(&self, index: u32) -> Option<CpuRow<'a, T>> {
        Some(match self.format {
            Format::F32 => CpuRow::Floats(find(&self.floats, index, self.words)?),
            Format::F16 { .. } => CpuRow::Halves(find(&self.packed, index, self.words)?),
            Format::Int8 { .. } => {
                let scale = *self.scales.get(index as usize)? * T::of(1.0 / 127.0);
                CpuRow::Bytes(find(&self.packed, index, self.words)?, scale)
            }
        })
    }
}

/// Words of a table from which on it lies outside of a core's caches.
const FAR: usize = 1 << 18;
/// Words of rows that are asked for at a time.
const ASKED: usize = 1 << 11;
/// Words of a line of a cache.
const LINE: usize = 16;

impl<T: Real> CpuTable<'_, T> {
    /// Hits that are worked on together, a multiple of four.
    pub fn group(&self) -> usize {
        if self.far { (ASKED / self.words.max(1) / 4 * 4).max(4) } else { 1 << 16 }
    }

    /// Has the rows of coming hits loaded: memory delivers many rows at a time, but only if they are asked for, and arithmetic
    /// on one fills the processor's window before it sees the next.
    #[inline(always)]
    pub fn ask(&self, hits: &[u32]) {
        if !self.far {
            return;
        }
        for row in hits.iter().filter_map(|i| self.row(*i)) {
            match row {
                CpuRow::Floats(row) => row.iter().step_by(LINE).for_each(|x| _ = black_box(*x)),
                CpuRow::Halves(row) | CpuRow::Bytes(row, _) => row.iter().step_by(LINE).for_each(|x| _ = black_box(*x)),
            }
        }
    }
}

/// A row of a table in pieces.
#[inline(always)]
fn find<'a, E>(pieces: &[&'a [E]], index: u32, words: usize) -> Option<&'a [E]> {
    let mut at = (index as usize).checked_mul(words)?;
    for piece in pieces {
        if at < piece.len() {
            return piece.get(at..at + words);
        }
        at -= piece.len();
    }
    None
}

impl<T: Real> CpuRow<'_, T> {
    /// Adds the row times a weight to `out`.
    #[inline(always)]
    pub fn add_to(self, weight: T, out: &mut [T]) {
        let add = |out: &mut T, v: f32, weight: T| *out += weight * T::of(f64::from(v));
        match self {
            CpuRow::Floats(row) => out.iter_mut().zip(row).for_each(|(o, v)| *o += weight * *v),
            CpuRow::Halves(row) => {
                let mut pairs = out.chunks_exact_mut(2);
                for (pair, word) in (&mut pairs).zip(row) {
                    add(&mut pair[0], half(*word), weight);
                    add(&mut pair[1], half(*word >> 16), weight);
                }
                pairs.into_remainder().iter_mut().zip(row.last()).for_each(|(o, w)| add(o, half(*w), weight));
            }
            CpuRow::Bytes(row, scale) => {
                let weight = weight * scale;
                let mut quads = out.chunks_exact_mut(4);
                for (quad, word) in (&mut quads).zip(row) {
                    (0..4).for_each(|i| add(&mut quad[i], byte(*word, i), weight));
                }
                let rest = quads.into_remainder();
                let last = row.last().copied().unwrap_or_default();
                rest.iter_mut().enumerate().for_each(|(i, o)| add(o, byte(last, i), weight));
            }
        }
    }
}
