//! Tensors on the host.

use super::{DType, Shape, TensorType};
use crate::error::{Error, Result};

/// Elements of a host tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Floats.
    F32(Vec<f32>),
    /// Unsigned integers.
    U32(Vec<u32>),
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(v) => v.len(),
            Data::U32(v) => v.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Data::F32(v) => bytemuck::cast_slice(v),
            Data::U32(v) => bytemuck::cast_slice(v),
        }
    }
}

/// A tensor in host memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Shape,
    data: Data,
}

impl Tensor {
    /// A tensor of floats.
    ///
    /// # Errors
    /// [`Error::Argument`] when `data` does not have as many elements as `shape`.
    pub fn f32(shape: impl Into<Shape>, data: Vec<f32>) -> Result<Self> {
        Self::new(shape.into(), Data::F32(data))
    }

    /// A tensor of unsigned integers.
    ///
    /// # Errors
    /// [`Error::Argument`] when `data` does not have as many elements as `shape`.
    pub fn u32(shape: impl Into<Shape>, data: Vec<u32>) -> Result<Self> {
        Self::new(shape.into(), Data::U32(data))
    }

    /// A tensor from typed data.
    ///
    /// # Errors
    /// [`Error::Argument`] when `data` does not have as many elements as `shape`.
    pub fn new(shape: Shape, data: Data) -> Result<Self> {
        if shape.numel() != data.len() {
            return Err(Error::argument(
                "tensor",
                format!("shape {shape} has {} elements, the data {}", shape.numel(), data.len()),
            ));
        }
        Ok(Tensor { shape, data })
    }

    /// A scalar.
    pub fn scalar(value: f32) -> Self {
        Tensor { shape: Shape::default(), data: Data::F32(vec![value]) }
    }

    /// All zeros.
    pub fn zeros(ty: &TensorType) -> Self {
        let data = match ty.dtype {
            DType::F32 => Data::F32(vec![0.0; ty.numel()]),
            DType::U32 => Data::U32(vec![0; ty.numel()]),
        };
        Tensor { shape: ty.shape.clone(), data }
    }

    /// Shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Element type and shape.
    pub fn ty(&self) -> TensorType {
        let dtype = match self.data {
            Data::F32(_) => DType::F32,
            Data::U32(_) => DType::U32,
        };
        TensorType { dtype, shape: self.shape.clone() }
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements, without a copy.
    pub fn into_data(self) -> Data {
        self.data
    }

    /// The floats; empty for an integer tensor.
    pub fn floats(&self) -> &[f32] {
        match &self.data {
            Data::F32(v) => v,
            Data::U32(_) => &[],
        }
    }

    /// The integers; empty for a float tensor.
    pub fn ints(&self) -> &[u32] {
        match &self.data {
            Data::U32(v) => v,
            Data::F32(_) => &[],
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::Argument`] for a shape with another number of elements.
    pub fn reshape(self, shape: impl Into<Shape>) -> Result<Self> {
        Self::new(shape.into(), self.data)
    }
}
