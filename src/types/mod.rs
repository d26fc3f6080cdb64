//! Element types, shapes, layouts and host tensors.
//!
//! ```
//! use wgrad::{DType, Tensor, TensorType};
//! # fn main() -> wgrad::Result<()> {
//! let x = Tensor::f32([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//! assert_eq!(x.ty(), TensorType::f32([2, 3]));
//! assert_eq!(x.ty().dtype, DType::F32);
//! assert!(Tensor::u32([4], vec![0, 1]).is_err()); // four expected, two given
//! # Ok(())
//! # }
//! ```

mod layout;
mod math;
mod real;
mod tensor;

pub use layout::{Layout, Operand};
pub use real::Real;
pub use tensor::{Data, Tensor};

use crate::error::{Error, Refusal};
use std::ops::Deref;

/// Elements a tensor may have: kernels number them in 32 bits.
pub(crate) const MAX_ELEMENTS: u64 = u32::MAX as u64;

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 32-bit unsigned integer: indices, tokens, labels and 0/1 masks.
    U32,
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::U32 => "u32",
        })
    }
}

/// Extents of a tensor, outermost first; `[]` is a scalar.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<usize>);

/// Shapes are looked at before they are found to be too large.
fn numel(dims: &[usize]) -> usize {
    dims.iter().fold(1, |n, d| n.saturating_mul(*d))
}

impl Shape {
    /// Number of elements; `usize::MAX` stands for more than it can hold.
    pub fn numel(&self) -> usize {
        numel(self)
    }

    /// Shape that both broadcast to, by the rules of NumPy.
    ///
    /// # Errors
    /// [`Refusal::Shape`], with the first dimension where they differ.
    pub fn broadcast(&self, other: &Shape) -> Result<Shape, Refusal> {
        let rank = self.len().max(other.len());
        let at = |s: &Shape, i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
        let mut out = Vec::with_capacity(rank);
        for i in 0..rank {
            match (at(self, i), at(other, i)) {
                (a, b) if a == b => out.push(a),
                (1, b) => out.push(b),
                (a, 1) => out.push(a),
                (a, b) => {
                    // One number for each row, the row's dimension forgotten.
                    let column = |s: &Shape, of: &Shape| s.len() + 1 == of.len() && s[..] == of[..s.len()];
                    let advice = match (column(self, other), column(other, self)) {
                        (true, _) => format!("{self} would with unsqueeze({})", self.len()),
                        (_, true) => format!("{other} would with unsqueeze({})", other.len()),
                        _ => "reshape or unsqueeze one".to_owned(),
                    };
                    return Refusal::shape(format!(
                        "{self} and {other} do not broadcast: {a} against {b} in dimension {i}; {advice}"
                    ));
                }
            }
        }
        Ok(Shape(out))
    }

    /// `(outer, extent, inner)` of an axis: the tensor seen as three dimensions.
    pub fn split(&self, axis: usize) -> (usize, usize, usize) {
        (numel(&self[..axis]), self[axis], numel(&self[axis + 1..]))
    }

    /// Last extent and the number of rows before it (a scalar is one row of one).
    pub fn rows(&self) -> (usize, usize) {
        match self.split_last() {
            Some((n, rest)) => (numel(rest), *n),
            None => (1, 1),
        }
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape(dims.to_vec())
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Shape(dims.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Shape(dims)
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Element type and shape.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Shape,
}

impl TensorType {
    /// A float tensor.
    pub fn f32(shape: impl Into<Shape>) -> Self {
        TensorType { dtype: DType::F32, shape: shape.into() }
    }

    /// An unsigned integer tensor.
    pub fn u32(shape: impl Into<Shape>) -> Self {
        TensorType { dtype: DType::U32, shape: shape.into() }
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Refuses a tensor that has more elements than kernels can number; empty dimensions count as one, because strides
    /// are products of the others. `what` says where it comes from.
    pub(crate) fn check_size(&self, what: &dyn Fn() -> String) -> Result<(), Error> {
        let extents = self.shape.iter().map(|d| (*d).max(1) as u64);
        let needed = extents.fold(1u64, u64::saturating_mul);
        if needed <= MAX_ELEMENTS {
            return Ok(());
        }
        Err(Error::Limit {
            limit: "number of elements of a tensor".into(),
            needed,
            available: MAX_ELEMENTS,
            hint: format!("{} is {self}; use a smaller batch or shards", what()),
        })
    }

    /// Refuses any other element type.
    ///
    /// # Errors
    /// [`Refusal::Dtype`].
    pub fn require(&self, dtype: DType, advice: &str) -> Result<(), Refusal> {
        if self.dtype == dtype { Ok(()) } else { Err(Refusal::Dtype(dtype, self.dtype, advice.to_owned())) }
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}
