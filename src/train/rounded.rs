//! Quantised tables in files: halves, or bytes with a scale a row.

use crate::error::{Error, Result};
use crate::nn::{Param, Params, QuantRows, QuantTableType, Quantization};
use crate::types::{Shape, Tensor};
use safetensors::tensor::Dtype;

/// What the name of the scales of a table adds to its own.
pub(super) const SCALES: &str = ".scales";
/// Elements that are rounded at a time.
const BLOCK: usize = 1 << 16;

/// A quantised parameter on its way into a file.
pub(super) struct Rounded<'a> {
    param: &'a Param,
    ty: QuantTableType,
}

impl<'a> Rounded<'a> {
    /// Those among the parameters, in order.
    pub fn all(params: &'a Params) -> Result<Vec<Self>> {
        let all = params.all_rounded()?;
        let taken = |(p, _): &&(&Param, QuantTableType)| params.get(&format!("{}{SCALES}", p.name())).is_ok();
        if let Some((p, _)) = all.iter().find(taken) {
            let message = "its scales need the name of another parameter; choose another one".to_owned();
            return Err(Error::Name { kind: "parameter", name: p.name().to_owned(), message });
        }
        Ok(all.into_iter().map(|(param, ty)| Rounded { param, ty }).collect())
    }

    /// Its rows in the file's header.
    pub fn header(&self) -> (String, Dtype, Shape) {
        let dtype = match self.ty.how() {
            Quantization::F16 => Dtype::F16,
            Quantization::Int8 => Dtype::I8,
        };
        (self.param.name().to_owned(), dtype, self.param.shape().clone())
    }

    /// Its scales in the file's header, if it has any.
    pub fn scales_header(&self) -> Option<(String, Dtype, Shape)> {
        let scaled = self.ty.how() == Quantization::Int8;
        scaled.then(|| (format!("{}{SCALES}", self.param.name()), Dtype::F32, [self.ty.rows()].into()))
    }

    /// Writes the scales.
    pub fn write_scales(&self, params: &Params, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.scales_header().is_none() {
            return Ok(());
        }
        self.blocks(params, |rows| match &rows.scales {
            Some(scales) => put(scales.data().bytes()),
            None => Ok(()),
        })
    }

    /// Writes the rows, without what fills their last words up.
    pub fn write(&self, params: &Params, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let size = match self.ty.how() {
            Quantization::F16 => 2,
            Quantization::Int8 => 1,
        };
        let (stored, used) = (4 * self.ty.words().width(), size * self.ty.width());
        self.blocks(params, |rows| {
            let whole = rows.words.data().bytes();
            let bytes: Vec<u8> =
                whole.chunks(stored.max(1)).flat_map(|row| row.get(..used).unwrap_or_default()).copied().collect();
            put(&bytes)
        })
    }

    /// The table, rounded block by block.
    fn blocks(&self, params: &Params, mut f: impl FnMut(QuantRows) -> Result<()>) -> Result<()> {
        let (mut draw, width) = (params.draw(self.param), self.ty.width());
        let per = (BLOCK / width.max(1)).max(1);
        for start in (0..self.ty.rows()).step_by(per) {
            let rows = per.min(self.ty.rows() - start);
            let mut values = vec![0.0; rows * width];
            draw.fill(&mut values);
            f(self.ty.quantize(&Tensor::f32([rows, width], values)?)?)?;
        }
        Ok(())
    }
}

/// The values of bytes with scales, one for each row.
pub(super) fn restore(shape: Shape, bytes: &[u8], scales: &[f32]) -> Result<Tensor> {
    let mut values = Vec::new();
    let requested = bytes.len() as u64 * 4;
    values.try_reserve_exact(bytes.len()).map_err(|_| Error::OutOfMemory { requested, peak: requested })?;
    let width = shape.last().copied().unwrap_or(0).max(1);
    for (row, scale) in bytes.chunks(width).zip(scales) {
        values.extend(row.iter().map(|b| f32::from(*b as i8).max(-127.0) / 127.0 * scale));
    }
    Tensor::f32(shape, values)
}
