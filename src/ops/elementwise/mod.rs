//! Elementwise operations: one scalar function applied to broadcast inputs. Chains of them are fused into one kernel.
//!
//! Functions of one value keep its shape. Functions of two broadcast by the rules of NumPy: shapes are aligned at their ends,
//! and an extent of 1 is repeated; `[2, 1]` and `[3]` give `[2, 3]`. Numbers of Rust stand for scalars. Element types are not
//! converted: [`Var::to_f32`] and [`Var::to_u32`] do so.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! // Operators and methods broadcast, and a chain of them becomes one kernel.
//! let graph = Graph::new();
//! let x = graph.constant(Tensor::f32([2, 2], vec![1.0, -2.0, 3.0, -4.0])?);
//! let bias = graph.constant(Tensor::f32([2], vec![1.0, 0.5])?);
//! let y = ((x + bias).relu() * 2.0 - 1.0).square();
//! let plan = Device::cpu().compile_blocking(&graph, &[("y", y), ("positive", x.gt(0.0))])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("y")?.floats(), [9.0, 1.0, 49.0, 1.0]);
//! assert_eq!(plan.read_blocking("positive")?.ints(), [1, 0, 1, 0]); // masks are u32
//! assert!(plan.program().steps.len() <= 2);
//! # Ok(())
//! # }
//! ```

mod fused;
mod samples;

pub use crate::kernels::scalar::{Binary, Compare, Scalar, Unary};
pub use fused::{Argument, Fused};
pub use samples::samples;

use crate::error::{Error, Refusal, Result, Where};
use crate::graph::{Cotangent, Graph, Op, Var, Vjp};
use crate::kernels::{CpuCall, Lower};
use crate::types::{DType, Shape, TensorType};
use std::sync::Arc;

/// One scalar function over broadcast inputs.
#[derive(Clone, Debug)]
pub struct Elementwise(pub Scalar);

/// A tensor made from nothing: filled with one value, or with its own indices.
#[derive(Clone, Debug)]
struct Made {
    scalar: Scalar,
    shape: Shape,
}

/// Adds a filled tensor; infinite and NaN values are refused, because WGSL has neither.
#[track_caller]
fn full(graph: &Graph, dtype: DType, shape: Shape, value: f64) -> Var<'_> {
    if !(value as f32).is_finite() {
        graph.fail(Error::argument("full", format!("{value} is no finite f32; use f32::MIN or f32::MAX instead")));
    }
    let scalar = Scalar::Const { dtype, bits: value.to_bits() };
    graph.apply_at(Arc::new(Made { scalar, shape }), &[], Where::caller())[0]
}

impl Graph {
    /// A float tensor of any shape filled with one value, which must be finite.
    #[track_caller]
    pub fn full(&self, shape: impl Into<Shape>, value: f64) -> Var<'_> {
        full(self, DType::F32, shape.into(), value)
    }

    /// An integer tensor of any shape filled with one value.
    #[track_caller]
    pub fn full_u32(&self, shape: impl Into<Shape>, value: u32) -> Var<'_> {
        full(self, DType::U32, shape.into(), f64::from(value))
    }

    /// The index along `axis`, u32 of the given shape; it is computed inside the kernels that use it at that shape.
    #[track_caller]
    pub fn iota(&self, shape: impl Into<Shape>, axis: usize) -> Var<'_> {
        self.iota_at(shape.into(), axis, Where::caller())
    }

    fn iota_at(&self, shape: Shape, axis: usize, location: Where) -> Var<'_> {
        if axis >= shape.len() {
            let message = format!("axis {axis} of {} dimensions", shape.len());
            self.fail(Error::Shape { op: "iota".into(), message, shapes: vec![shape], location });
            return self.full_u32([], 0);
        }
        let (_, extent, inner) = shape.split(axis);
        let scalar = Scalar::Iota { inner: inner.max(1) as u32, extent: extent.max(1) as u32 };
        self.apply_at(Arc::new(Made { scalar, shape }), &[], location)[0]
    }
}

impl Op for Made {
    fn name(&self) -> &'static str {
        self.scalar.name()
    }
    fn infer(&self, _: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![TensorType { dtype: self.scalar.dtype(&[]), shape: self.shape.clone() }])
    }
    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }
    fn scalar(&self) -> Option<Scalar> {
        Some(self.scalar)
    }
    #[cfg(feature = "cpu")]
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        Fused::single(self.scalar, 0).cpu(call);
    }
    #[cfg(feature = "oracle")]
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        Fused::single(self.scalar, 0).cpu(call);
    }
    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        Fused::single(self.scalar, 0).lower(cx)
    }
}

impl Op for Elementwise {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        self.0.check(inputs)?;
        let mut shape = Shape::default();
        for t in inputs {
            shape = shape.broadcast(&t.shape)?;
        }
        let dtypes: Vec<DType> = inputs.iter().map(|t| t.dtype).collect();
        Ok(vec![TensorType { dtype: self.0.dtype(&dtypes), shape }])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let x = cx.inputs[0];
        let y = cx.outputs[0];
        let grads = match self.0 {
            Scalar::Unary(f) => vec![f.vjp(x, y, g)],
            Scalar::Binary(f) => {
                let [a, b] = f.vjp(x, cx.inputs[1], y, g);
                vec![a, b]
            }
            Scalar::Select => {
                let zero = cx.graph.full([], 0.0);
                vec![None, Some(x.select(g, zero)), Some(x.select(zero, g))]
            }
            Scalar::Const { .. }
            | Scalar::Iota { .. }
            | Scalar::Compare(_)
            | Scalar::ToFloat
            | Scalar::ToInt
            | Scalar::IsFinite => {
                return cx.none();
            }
        };
        grads.into_iter().zip(&cx.inputs).map(|(g, x)| g.map(|g| g.sum_to(x.shape()).into())).collect()
    }

    fn scalar(&self) -> Option<Scalar> {
        Some(self.0)
    }

    fn strided(&self, _: usize) -> bool {
        true
    }

    #[cfg(feature = "cpu")]
    fn cpu_f32(&self, call: &mut CpuCall<'_, f32>) {
        Fused::single(self.0, call.inputs.len()).cpu(call);
    }
    #[cfg(feature = "oracle")]
    fn cpu_f64(&self, call: &mut CpuCall<'_, f64>) {
        Fused::single(self.0, call.inputs.len()).cpu(call);
    }
    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        Fused::single(self.0, cx.inputs.len()).lower(cx)
    }
}

impl Unary {
    fn vjp<'g>(self, x: Var<'g>, y: Var<'g>, g: Var<'g>) -> Option<Var<'g>> {
        Some(match self {
            Unary::Neg => -g,
            Unary::Exp => g * y,
            Unary::Ln => g / x,
            Unary::Sqrt => g * 0.5 / y,
            Unary::Recip => -(g * y * y),
            Unary::Tanh => g * (1.0 - y * y),
            Unary::Sigmoid => g * y * (1.0 - y),
            Unary::Relu => x.gt(0.0).select(g, 0.0),
            Unary::Elu => x.gt(0.0).select(g, g * (y + 1.0)),
            Unary::EluPlusOne => x.gt(0.0).select(g, g * y),
            Unary::Erf => g * (-(x * x)).exp() * std::f64::consts::FRAC_2_SQRT_PI,
            Unary::Gelu => g * x.unary(Unary::GeluSlope),
            Unary::GeluSlope => {
                let density = (-(x * x) * 0.5).exp() * (1.0 / (2.0 * std::f64::consts::PI).sqrt());
                g * density * (2.0 - x * x)
            }
            Unary::Sin => g * x.cos(),
            Unary::Cos => -(g * x.sin()),
            Unary::Abs => x.ge(0.0).select(g, -g),
            Unary::Floor => return None,
        })
    }
}

impl Binary {
    fn vjp<'g>(self, a: Var<'g>, b: Var<'g>, y: Var<'g>, g: Var<'g>) -> [Option<Var<'g>>; 2] {
        match self {
            Binary::Add => [Some(g), Some(g)],
            Binary::Sub => [Some(g), Some(-g)],
            Binary::Mul => [Some(g * b), Some(g * a)],
            Binary::Div => [Some(g / b), Some(-(g * y / b))],
            Binary::Max => [Some(a.ge(b).select(g, 0.0)), Some(a.ge(b).select(0.0, g))],
            Binary::Min => [Some(a.le(b).select(g, 0.0)), Some(a.le(b).select(0.0, g))],
            Binary::Pow => {
                // At 0 the formulas are 0 times infinity; the slopes there are 0, as in PyTorch.
                let base = b.ne(0.0).select(g * b * a.pow(b - 1.0), 0.0);
                [Some(base), Some(a.gt(0.0).select(g * y * a.ln(), 0.0))]
            }
            Binary::Rem | Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => [None, None],
        }
    }
}

/// Something that can stand beside a variable in arithmetic: a variable or a number.
pub trait IntoVar<'g> {
    /// The variable, in the graph of `like`; a number takes the element type of `like`.
    fn into_var(self, like: Var<'g>) -> Var<'g>;
}

impl<'g> IntoVar<'g> for Var<'g> {
    fn into_var(self, _: Var<'g>) -> Var<'g> {
        self
    }
}

impl<'g> IntoVar<'g> for f64 {
    #[track_caller]
    fn into_var(self, like: Var<'g>) -> Var<'g> {
        full(like.graph, like.dtype(), Shape::default(), self)
    }
}

impl<'g> IntoVar<'g> for u32 {
    #[track_caller]
    fn into_var(self, like: Var<'g>) -> Var<'g> {
        full(like.graph, DType::U32, Shape::default(), f64::from(self))
    }
}

macro_rules! unary_methods {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        impl<'g> Var<'g> {
            $($(#[$doc])* #[track_caller] pub fn $name(self) -> Var<'g> { self.unary(Unary::$kind) })*
        }
    };
}

unary_methods! {
    /// e^x, elementwise.
    exp => Exp;
    /// Natural logarithm, elementwise.
    ln => Ln;
    /// Square root, elementwise.
    sqrt => Sqrt;
    /// 1/x, elementwise.
    recip => Recip;
    /// Hyperbolic tangent, elementwise.
    tanh => Tanh;
    /// 1/(1+e^-x), elementwise.
    sigmoid => Sigmoid;
    /// max(x, 0), elementwise; slope 0 at 0.
    relu => Relu;
    /// x for x > 0, else e^x - 1, elementwise (Clevert et al. 2015, arXiv 1511.07289).
    elu => Elu;
    /// elu(x) + 1, computed as e^x for x <= 0 so that it does not cancel; the feature map of linear attention
    /// (Katharopoulos et al. 2020, arXiv 2006.16236).
    elu_plus_one => EluPlusOne;
    /// Gauss error function, elementwise.
    erf => Erf;
    /// x Φ(x) with the exact error function (Hendrycks and Gimpel, arXiv 1606.08415), elementwise.
    gelu => Gelu;
    /// Sine, elementwise.
    sin => Sin;
    /// Cosine, elementwise.
    cos => Cos;
    /// Absolute value, elementwise.
    abs => Abs;
    /// Largest integer not above x, elementwise; no gradient.
    floor => Floor;
}

macro_rules! binary_methods {
    ($($(#[$doc:meta])* $name:ident => $scalar:expr;)*) => {
        // Named like the operator traits where they mean the same, but for integers only.
        #[allow(clippy::should_implement_trait)]
        impl<'g> Var<'g> {
            $($(#[$doc])* #[track_caller] pub fn $name(self, other: impl IntoVar<'g>) -> Var<'g> {
                let other = other.into_var(self);
                self.op(Elementwise($scalar), &[other])
            })*
        }
    };
}

binary_methods! {
    /// The larger of two, elementwise with broadcasting; at a tie the gradient goes to `self`.
    maximum => Scalar::Binary(Binary::Max);
    /// The smaller of two, elementwise with broadcasting; at a tie the gradient goes to `self`.
    minimum => Scalar::Binary(Binary::Min);
    /// self^other, elementwise with broadcasting; `self` must be positive.
    pow => Scalar::Binary(Binary::Pow);
    /// Remainder of u32, elementwise; x % 0 is 0.
    rem => Scalar::Binary(Binary::Rem);
    /// Bitwise and of u32; on masks: both.
    and => Scalar::Binary(Binary::And);
    /// Bitwise or of u32; on masks: either.
    or => Scalar::Binary(Binary::Or);
    /// Bitwise exclusive or of u32.
    xor => Scalar::Binary(Binary::Xor);
    /// Shift left of u32; only the low 5 bits of the amount count.
    shl => Scalar::Binary(Binary::Shl);
    /// Shift right of u32; only the low 5 bits of the amount count.
    shr => Scalar::Binary(Binary::Shr);
    /// Mask (u32 0/1) of self < other.
    lt => Scalar::Compare(Compare::Lt);
    /// Mask (u32 0/1) of self <= other.
    le => Scalar::Compare(Compare::Le);
    /// Mask (u32 0/1) of self > other.
    gt => Scalar::Compare(Compare::Gt);
    /// Mask (u32 0/1) of self >= other.
    ge => Scalar::Compare(Compare::Ge);
    /// Mask (u32 0/1) of self == other.
    eq => Scalar::Compare(Compare::Eq);
    /// Mask (u32 0/1) of self != other.
    ne => Scalar::Compare(Compare::Ne);
}

impl<'g> Var<'g> {
    #[track_caller]
    pub(crate) fn unary(self, kind: Unary) -> Var<'g> {
        self.op(Elementwise(Scalar::Unary(kind)), &[])
    }

    /// With `self` a mask (u32): `yes` where it is not 0, else `no`; broadcasting. Two numbers give floats. This is `where`
    /// of NumPy, PyTorch and JAX.
    #[doc(alias = "where")]
    #[track_caller]
    pub fn select(self, yes: impl IntoVar<'g>, no: impl IntoVar<'g>) -> Var<'g> {
        let float = full(self.graph, DType::F32, Shape::default(), 0.0);
        let yes = yes.into_var(float);
        self.op(Elementwise(Scalar::Select), &[yes, no.into_var(yes)])
    }

    /// `self` where `mask` (u32, broadcasting) is not 0, else `value`: keeps what the mask marks, as all masks of this
    /// library mark what is there. PyTorch's `x.masked_fill(mask, value)` fills what the mask marks, which is
    /// `mask.select(value, x)`.
    ///
    /// ```
    /// # use wgrad::{Device, Feed, Graph};
    /// # fn main() -> wgrad::Result<()> {
    /// let g = Graph::new();
    /// let x = g.iota([4], 0).to_f32();
    /// let kept = x.keep_where(x.lt(2.0), -1.0);
    /// let plan = Device::cpu().compile_blocking(&g, &[("kept", kept)])?;
    /// plan.run(&Feed::new())?;
    /// assert_eq!(plan.read_blocking("kept")?.floats(), [0.0, 1.0, -1.0, -1.0]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "masked_fill")]
    #[track_caller]
    pub fn keep_where(self, mask: Var<'g>, value: f64) -> Var<'g> {
        mask.select(self, value.into_var(self))
    }

    /// x sigmoid(x), elementwise (Elfwing et al. 2017, arXiv 1702.03118; Swish).
    #[track_caller]
    pub fn silu(self) -> Var<'g> {
        self * self.sigmoid()
    }

    /// x², elementwise.
    #[track_caller]
    pub fn square(self) -> Var<'g> {
        self * self
    }

    /// u32 to f32; f32 stays. No gradient through the conversion of integers.
    #[track_caller]
    pub fn to_f32(self) -> Var<'g> {
        if self.dtype() == DType::F32 { self } else { self.op(Elementwise(Scalar::ToFloat), &[]) }
    }

    /// f32 to u32, truncated towards 0 and clamped to its range; u32 stays. No gradient.
    #[track_caller]
    pub fn to_u32(self) -> Var<'g> {
        if self.dtype() == DType::U32 { self } else { self.op(Elementwise(Scalar::ToInt), &[]) }
    }

    /// Mask (u32 0/1, of the same shape) of the values that are neither infinite nor NaN, by their bits.
    #[track_caller]
    pub fn is_finite(self) -> Var<'g> {
        self.op(Elementwise(Scalar::IsFinite), &[])
    }

    /// Identity forward, no gradient backward.
    #[track_caller]
    pub fn stop_gradient(self) -> Var<'g> {
        self.op(crate::ops::view::View::StopGradient, &[])
    }

    /// Straight-through estimator (Bengio et al. 2013, arXiv 1308.3432): the value of `self`, the gradient of `soft`.
    #[track_caller]
    pub fn straight_through(self, soft: Var<'g>) -> Var<'g> {
        soft + (self - soft).stop_gradient()
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $kind:ident;)*) => {$(
        impl<'g, R: IntoVar<'g>> std::ops::$trait<R> for Var<'g> {
            type Output = Var<'g>;
            #[track_caller]
            fn $method(self, other: R) -> Var<'g> {
                let other = other.into_var(self);
                self.op(Elementwise(Scalar::Binary(Binary::$kind)), &[other])
            }
        }
        impl<'g> std::ops::$trait<Var<'g>> for f64 {
            type Output = Var<'g>;
            #[track_caller]
            fn $method(self, other: Var<'g>) -> Var<'g> {
                self.into_var(other).op(Elementwise(Scalar::Binary(Binary::$kind)), &[other])
            }
        }
    )*};
}

operators! {
    Add add Add;
    Sub sub Sub;
    Mul mul Mul;
    Div div Div;
}

impl<'g> std::ops::Neg for Var<'g> {
    type Output = Var<'g>;
    #[track_caller]
    fn neg(self) -> Var<'g> {
        self.unary(Unary::Neg)
    }
}
