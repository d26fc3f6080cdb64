//! Tables of rows in 16 or 8 bits an element, for inference: a product-key memory in a half or a quarter of its space.

use super::sharded::{Sharded, ShardedType};
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::ops::memory::gather_dot::GatherDot;
use crate::ops::memory::table::{Format, half};
use crate::ops::memory::weighted_gather::WeightedGather;
use crate::types::{DType, Tensor, TensorType};
use ::half::f16;

/// How elements of a table are rounded. Measured on a million normally distributed values of deviation 1 in rows of 64
/// (`tests/ops/quant_table.rs`): halves are off by 1.9e-3 at most and 1.4e-4 on average, bytes by 1.9e-2 and 5.0e-3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// IEEE halves. Relative error up to 2^-11 from 2^-14 on; smaller values are right within 2^-25, and a device may
    /// take them as 0. Magnitudes up to 65,504.
    F16,
    /// Bytes, -127 to 127, that a scale of each row (f32: its largest magnitude / 127 a unit) stretches: error up to
    /// 1/254 of the largest magnitude of the row.
    Int8,
}

/// How a quantised table `[rows, width]` is stored: words u32, cut like a [`Sharded`] table into pieces `<name>.0`,
/// `<name>.1`, …, and for [`Quantization::Int8`] scales f32 `[rows]` as `<name>.scales`. Rows are whole words: two halves or
/// four bytes each, element 0 in the lowest bits, zeros after the last element. All are plain tensors, to be saved and
/// loaded as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantTableType {
    how: Quantization,
    width: usize,
    words: ShardedType,
}

/// Rows of a quantised table on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantRows {
    /// u32 `[rows, words]`.
    pub words: Tensor,
    /// f32 `[rows]`, for bytes.
    pub scales: Option<Tensor>,
}

impl Quantization {
    /// Whether rows have scales.
    pub(super) fn scaled(self) -> bool {
        self == Quantization::Int8
    }
}

fn format(how: Quantization, width: usize) -> Format {
    match how {
        Quantization::F16 => Format::F16 { width },
        Quantization::Int8 => Format::Int8 { width },
    }
}

/// Bits of four bytes, and the scale of a row, for bytes.
fn bytes(row: &[f32], words: &mut Vec<u32>) -> f32 {
    let scale = row.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let unit = if scale > 0.0 { 127.0 / f64::from(scale) } else { 0.0 };
    let byte = |v: &f32| (f64::from(*v) * unit).round() as i8 as u8;
    words.extend(row.chunks(4).map(|c| c.iter().rev().fold(0, |word, v| word << 8 | u32::from(byte(v)))));
    scale
}

impl QuantTableType {
    /// Pieces of at most 128 MiB, which every WebGPU device can bind.
    ///
    /// # Errors
    /// [`Error::Limit`] if a row alone is larger, or there are more rows than u32 indices can name.
    pub fn new(how: Quantization, rows: usize, width: usize) -> Result<QuantTableType> {
        let words = ShardedType::new(DType::U32, rows, format(how, width).words(width))?;
        Ok(QuantTableType { how, width, words })
    }

    /// Pieces of at most `bytes`.
    ///
    /// # Errors
    /// As [`ShardedType::with_limit`].
    pub fn with_limit(how: Quantization, rows: usize, width: usize, bytes: u64) -> Result<QuantTableType> {
        let words = ShardedType::with_limit(DType::U32, rows, format(how, width).words(width), bytes)?;
        Ok(QuantTableType { how, width, words })
    }

    /// How elements are rounded.
    pub fn how(&self) -> Quantization {
        self.how
    }

    /// Rows of the whole table.
    pub fn rows(&self) -> usize {
        self.words.rows()
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How the words are cut.
    pub fn words(&self) -> &ShardedType {
        &self.words
    }

    /// Bytes of words and scales.
    pub fn bytes(&self) -> u64 {
        let scales = if self.format().scaled() { 1 } else { 0 };
        4 * self.rows() as u64 * (self.words.width() as u64 + scales)
    }

    fn format(&self) -> Format {
        format(self.how, self.width)
    }

    /// Names and types of all tensors of a table of this name.
    pub fn named(&self, name: &str) -> Vec<(String, TensorType)> {
        let scales = self.format().scaled().then(|| (format!("{name}.scales"), TensorType::f32([self.rows()])));
        self.words.named(name).chain(scales).collect()
    }

    /// The table as inputs of a graph.
    #[track_caller]
    pub fn input<'g>(&self, graph: &'g Graph, name: &str) -> QuantTable<'g> {
        let words = self.words.input(graph, name);
        let named = || graph.input(&format!("{name}.scales"), TensorType::f32([self.rows()]));
        QuantTable { words, scales: self.format().scaled().then(named), ty: self.clone() }
    }

    /// The table as states of a graph.
    #[track_caller]
    pub fn state<'g>(&self, graph: &'g Graph, name: &str) -> QuantTable<'g> {
        let words = self.words.state(graph, name);
        let named = || graph.state(&format!("{name}.scales"), TensorType::f32([self.rows()]));
        QuantTable { words, scales: self.format().scaled().then(named), ty: self.clone() }
    }

    /// Rounds rows f32 `[n, width]`.
    ///
    /// # Errors
    /// [`Error::Argument`] for another shape, values that are not finite, and for halves magnitudes that round to more
    /// than 65,504.
    pub fn quantize(&self, rows: &Tensor) -> Result<QuantRows> {
        let ty = rows.ty();
        let n = ty.shape.first().copied().unwrap_or(0);
        if ty != TensorType::f32([n, self.width]) {
            return Err(Error::argument("quantize", format!("expected rows f32[n, {}], got {ty}", self.width)));
        }
        let fits = |v: &f32| match self.how {
            Quantization::F16 => f16::from_f32(*v).is_finite(),
            Quantization::Int8 => v.is_finite(),
        };
        let data = rows.floats();
        if let Some(at) = data.iter().position(|v| !fits(v)) {
            let (row, column, value, how) = (at / self.width, at % self.width, data[at], self.how);
            let message = format!(
                "row {row}, column {column} holds {value}, which {how:?} cannot; check the training, or clip it"
            );
            return Err(Error::argument("quantize", message));
        }
        let mut words = Vec::with_capacity(n * self.words.width());
        let mut scales = Vec::new();
        for row in data.chunks(self.width.max(1)) {
            match self.how {
                Quantization::F16 => {
                    let bits = |v: &f32| u32::from(f16::from_f32(*v).to_bits());
                    words.extend(row.chunks(2).map(|c| c.iter().rev().fold(0, |word, v| word << 16 | bits(v))));
                }
                Quantization::Int8 => scales.push(bytes(row, &mut words)),
            }
        }
        scales.resize(n, 0.0);
        let scales = self.format().scaled().then(|| Tensor::f32([n], scales)).transpose()?;
        Ok(QuantRows { words: Tensor::u32([n, self.words.width()], words)?, scales })
    }

    /// The values of rounded rows, f32 `[n, width]`.
    ///
    /// # Errors
    /// [`Error::Argument`] when words or scales do not have the shapes of this type.
    pub fn dequantize(&self, rows: &QuantRows) -> Result<Tensor> {
        let n = rows.words.shape().first().copied().unwrap_or(0);
        let scales = rows.scales.as_ref().map(Tensor::ty);
        if rows.words.ty() != TensorType::u32([n, self.words.width()])
            || scales != self.format().scaled().then(|| TensorType::f32([n]))
        {
            let message = format!("expected words u32[n, {}], and scales f32[n] for bytes", self.words.width());
            return Err(Error::argument("dequantize", message));
        }
        let scales = rows.scales.as_ref().map_or(&[][..], Tensor::floats);
        let mut values = Vec::with_capacity(n * self.width);
        for (i, row) in rows.words.ints().chunks(self.words.width().max(1)).enumerate() {
            let element = |c: usize| match self.how {
                Quantization::F16 => half(row[c / 2] >> (c % 2 * 16)),
                Quantization::Int8 => f32::from((row[c / 4] >> (c % 4 * 8)) as i8).max(-127.0) / 127.0 * scales[i],
            };
            values.extend((0..self.width).map(element));
        }
        Tensor::f32([n, self.width], values)
    }

    /// Rounds a table into states of a store; `rows` gives the elements of a run of rows, f32 `[.., width]`. Only one
    /// piece at a time is in host memory.
    ///
    /// # Errors
    /// As [`quantize`](Self::quantize) and [`Store::set`]; what `rows` returns.
    pub fn set(
        &self,
        store: &Store,
        name: &str,
        mut rows: impl FnMut(std::ops::Range<usize>) -> Result<Tensor>,
    ) -> Result<()> {
        let mut scales = Vec::new();
        self.words.set(store, name, |range| {
            let rounded = self.quantize(&rows(range)?)?;
            scales.extend(rounded.scales.iter().flat_map(Tensor::floats));
            Ok(rounded.words)
        })?;
        if self.format().scaled() {
            store.set(&format!("{name}.scales"), &Tensor::f32([self.rows()], scales)?)?;
        }
        Ok(())
    }
}

/// A quantised table in a graph. Its rows are unpacked where they are added up; nothing is trained in it, but gradients
/// flow to weights and queries.
#[derive(Clone)]
pub struct QuantTable<'g> {
    words: Sharded<'g>,
    scales: Option<Var<'g>>,
    ty: QuantTableType,
}

impl<'g> QuantTable<'g> {
    /// How it is stored.
    pub fn ty(&self) -> &QuantTableType {
        &self.ty
    }

    /// [`Var::weighted_gather`] from the rounded rows: for indices u32 and weights f32 `[.., k]`, `[.., width]`.
    #[track_caller]
    pub fn weighted_gather(&self, indices: Var<'g>, weights: Var<'g>) -> Var<'g> {
        let op = WeightedGather { format: self.ty.format(), masked: false };
        op.apply(self.words.shards(), indices, weights, self.scales, None)
    }

    /// [`Var::gather_dot`] with the rounded rows: for indices u32 `[.., k]` and vectors f32 `[.., width]`, `[.., k]`.
    #[track_caller]
    pub fn gather_dot(&self, indices: Var<'g>, vectors: Var<'g>) -> Var<'g> {
        let op = GatherDot { format: self.ty.format() };
        op.apply(self.words.shards(), indices, vectors, self.scales)
    }
}
