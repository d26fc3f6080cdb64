//! Scalar functions: their WGSL text and their CPU twins over blocks.
//!
//! ```
//! use wgrad::kernels::scalar::{Binary, Scalar};
//!
//! // One text for the GPU, one loop for the CPU; fused kernels are made of such texts.
//! let max = Scalar::Binary(Binary::Max);
//! assert_eq!(max.name(), "maximum");
//! let mut out = [0.0f32; 2];
//! max.floats([&[1.0, 5.0], &[3.0, 2.0], &[]], &mut out);
//! assert_eq!(out, [3.0, 5.0]);
//! ```

use super::vector::vectorized;
use crate::error::Refusal;
use crate::types::{DType, Real, TensorType};

/// Functions of one float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the functions; the methods of Var document them")]
pub enum Unary {
    Neg,
    Exp,
    Ln,
    Sqrt,
    Recip,
    Tanh,
    Sigmoid,
    Relu,
    Elu,
    EluPlusOne,
    Erf,
    Gelu,
    GeluSlope,
    Sin,
    Cos,
    Abs,
    Floor,
}

/// Functions of two values of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the functions; the methods of Var document them")]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    Pow,
    Rem,
    And,
    Or,
    Xor,
    Shl,
    Shr,
}

/// Comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the relations")]
pub enum Compare {
    Lt,
    Le,
    Gt,
    Ge,
    Eq,
    Ne,
}

/// One scalar function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    /// A number: the bits of an f64, and the element type.
    Const {
        /// Element type.
        dtype: DType,
        /// Bits of the value as f64.
        bits: u64,
    },
    /// Index along an axis, from the linear index i: i / inner % extent.
    Iota {
        /// Elements between neighbours along the axis.
        inner: u32,
        /// Extent of the axis.
        extent: u32,
    },
    /// Of one float.
    Unary(Unary),
    /// Of two values.
    Binary(Binary),
    /// Of two values, giving a mask.
    Compare(Compare),
    /// Of a mask and two values.
    Select,
    /// u32 to f32.
    ToFloat,
    /// f32 to u32.
    ToInt,
    /// Mask of finite floats.
    IsFinite,
}

const GELU_HALF: f64 = std::f64::consts::FRAC_1_SQRT_2;

impl Scalar {
    /// Name in errors and plans.
    pub fn name(&self) -> &'static str {
        match self {
            Scalar::Const { .. } => "full",
            Scalar::Iota { .. } => "iota",
            Scalar::Unary(f) => match f {
                Unary::Neg => "neg",
                Unary::Exp => "exp",
                Unary::Ln => "ln",
                Unary::Sqrt => "sqrt",
                Unary::Recip => "recip",
                Unary::Tanh => "tanh",
                Unary::Sigmoid => "sigmoid",
                Unary::Relu => "relu",
                Unary::Elu => "elu",
                Unary::EluPlusOne => "elu_plus_one",
                Unary::Erf => "erf",
                Unary::Gelu => "gelu",
                Unary::GeluSlope => "gelu_slope",
                Unary::Sin => "sin",
                Unary::Cos => "cos",
                Unary::Abs => "abs",
                Unary::Floor => "floor",
            },
            Scalar::Binary(f) => match f {
                Binary::Add => "add",
                Binary::Sub => "sub",
                Binary::Mul => "mul",
                Binary::Div => "div",
                Binary::Max => "maximum",
                Binary::Min => "minimum",
                Binary::Pow => "pow",
                Binary::Rem => "rem",
                Binary::And => "and",
                Binary::Or => "or",
                Binary::Xor => "xor",
                Binary::Shl => "shl",
                Binary::Shr => "shr",
            },
            Scalar::Compare(f) => match f {
                Compare::Lt => "lt",
                Compare::Le => "le",
                Compare::Gt => "gt",
                Compare::Ge => "ge",
                Compare::Eq => "eq",
                Compare::Ne => "ne",
            },
            Scalar::Select => "select",
            Scalar::ToFloat => "to_f32",
            Scalar::ToInt => "to_u32",
            Scalar::IsFinite => "is_finite",
        }
    }

    /// Element type of the result.
    pub fn dtype(&self, inputs: &[DType]) -> DType {
        match self {
            Scalar::Const { dtype, .. } => *dtype,
            Scalar::Unary(_) | Scalar::ToFloat => DType::F32,
            Scalar::Binary(_) => inputs.first().copied().unwrap_or(DType::F32),
            Scalar::Iota { .. } | Scalar::Compare(_) | Scalar::ToInt | Scalar::IsFinite => DType::U32,
            Scalar::Select => inputs.get(1).copied().unwrap_or(DType::F32),
        }
    }

    /// Refuses inputs of the wrong number or element type.
    ///
    /// # Errors
    /// [`Refusal::Shape`] for a wrong number of inputs, [`Refusal::Dtype`] for a wrong element type.
    pub fn check(&self, inputs: &[TensorType]) -> Result<(), Refusal> {
        let arity = match self {
            Scalar::Const { .. } | Scalar::Iota { .. } => 0,
            Scalar::Unary(_) | Scalar::ToFloat | Scalar::ToInt | Scalar::IsFinite => 1,
            Scalar::Binary(_) | Scalar::Compare(_) => 2,
            Scalar::Select => 3,
        };
        if inputs.len() != arity {
            return Refusal::shape(format!("expected {arity} inputs, got {}", inputs.len()));
        }
        let convert = "convert with to_f32 or to_u32";
        match self {
            Scalar::Const { .. } | Scalar::Iota { .. } => Ok(()),
            Scalar::Unary(_) | Scalar::ToInt | Scalar::IsFinite => inputs[0].require(DType::F32, convert),
            Scalar::ToFloat => inputs[0].require(DType::U32, convert),
            Scalar::Binary(Binary::Pow) => inputs.iter().try_for_each(|t| t.require(DType::F32, convert)),
            Scalar::Binary(Binary::Rem | Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr) => {
                inputs.iter().try_for_each(|t| t.require(DType::U32, convert))
            }
            Scalar::Binary(_) | Scalar::Compare(_) => inputs[1].require(inputs[0].dtype, convert),
            Scalar::Select => {
                inputs[0].require(DType::U32, "the condition is a mask of u32 0/1")?;
                inputs[2].require(inputs[1].dtype, convert)
            }
        }
    }

    /// WGSL expression over the arguments.
    pub fn wgsl(&self, args: &[String]) -> String {
        let a = args.first().map_or("", String::as_str);
        let b = args.get(1).map_or("", String::as_str);
        match self {
            // All digits: browsers refuse the rounded -3.4028235e38, which lies beyond the lowest f32.
            Scalar::Const { dtype: DType::F32, bits } => format!("{:?}f", f64::from(f64::from_bits(*bits) as f32)),
            Scalar::Const { dtype: DType::U32, bits } => format!("{}u", f64::from_bits(*bits) as u32),
            Scalar::Iota { inner, extent } => format!("(i / {inner}u) % {extent}u"),
            Scalar::Unary(f) => match f {
                Unary::Neg => format!("-{a}"),
                Unary::Exp => format!("exp({a})"),
                Unary::Ln => format!("log({a})"),
                Unary::Sqrt => format!("sqrt({a})"),
                Unary::Recip => format!("1.0 / {a}"),
                Unary::Tanh => format!("tanh(clamp({a}, -10.0, 10.0))"),
                Unary::Sigmoid => format!("1.0 / (1.0 + exp(-max({a}, -87.0)))"),
                Unary::Relu => format!("max({a}, 0.0)"),
                Unary::Elu => format!("select(exp(min({a}, 0.0)) - 1.0, {a}, {a} > 0.0)"),
                Unary::EluPlusOne => format!("select(exp(min({a}, 0.0)), {a} + 1.0, {a} > 0.0)"),
                Unary::Erf => format!("erf({a})"),
                Unary::Gelu => format!("gelu({a})"),
                Unary::GeluSlope => format!("gelu_slope({a})"),
                Unary::Sin => format!("sin({a})"),
                Unary::Cos => format!("cos({a})"),
                Unary::Abs => format!("abs({a})"),
                Unary::Floor => format!("floor({a})"),
            },
            Scalar::Binary(f) => match f {
                Binary::Add => format!("{a} + {b}"),
                Binary::Sub => format!("{a} - {b}"),
                Binary::Mul => format!("{a} * {b}"),
                Binary::Div => format!("{a} / {b}"),
                Binary::Max => format!("max({a}, {b})"),
                Binary::Min => format!("min({a}, {b})"),
                Binary::Pow => format!("pow({a}, {b})"),
                Binary::Rem => format!("select(0u, {a} % max({b}, 1u), {b} != 0u)"),
                Binary::And => format!("{a} & {b}"),
                Binary::Or => format!("{a} | {b}"),
                Binary::Xor => format!("{a} ^ {b}"),
                Binary::Shl => format!("{a} << ({b} & 31u)"),
                Binary::Shr => format!("{a} >> ({b} & 31u)"),
            },
            Scalar::Compare(f) => {
                let sign = match f {
                    Compare::Lt => "<",
                    Compare::Le => "<=",
                    Compare::Gt => ">",
                    Compare::Ge => ">=",
                    Compare::Eq => "==",
                    Compare::Ne => "!=",
                };
                format!("select(0u, 1u, {a} {sign} {b})")
            }
            Scalar::Select => format!("select({}, {b}, {a} != 0u)", args.get(2).map_or("", String::as_str)),
            Scalar::ToFloat => format!("f32({a})"),
            Scalar::ToInt => format!("u32({a})"),
            Scalar::IsFinite => format!("select(0u, 1u, finite({a}))"),
        }
    }

    /// CPU twin with float arguments and a float result.
    pub fn floats<T: Real>(&self, args: [&[T]; 3], out: &mut [T]) {
        vectorized(
            #[inline(always)]
            || self.floats_in(args, out),
        );
    }

    #[inline(always)]
    fn floats_in<T: Real>(&self, args: [&[T]; 3], out: &mut [T]) {
        match self {
            Scalar::Const { bits, .. } => out.fill(T::of(f64::from_bits(*bits))),
            Scalar::Unary(f) => unary(*f, args[0], out),
            Scalar::Binary(f) => {
                let (a, b) = (args[0], args[1]);
                match f {
                    Binary::Add => zip(a, b, out, |a, b| a + b),
                    Binary::Sub => zip(a, b, out, |a, b| a - b),
                    Binary::Mul => zip(a, b, out, |a, b| a * b),
                    Binary::Div => zip(a, b, out, |a, b| a / b),
                    Binary::Max => zip(a, b, out, T::max),
                    Binary::Min => zip(a, b, out, T::min),
                    Binary::Pow => zip(a, b, out, T::powf),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// CPU twin with integer arguments and an integer result.
    pub fn ints(&self, args: [&[u32]; 3], out: &mut [u32]) {
        vectorized(
            #[inline(always)]
            || self.ints_in(args, out),
        );
    }

    #[inline(always)]
    fn ints_in(&self, args: [&[u32]; 3], out: &mut [u32]) {
        match self {
            Scalar::Const { bits, .. } => out.fill(f64::from_bits(*bits) as u32),
            Scalar::Binary(f) => {
                let (a, b) = (args[0], args[1]);
                match f {
                    Binary::Add => zip(a, b, out, u32::wrapping_add),
                    Binary::Sub => zip(a, b, out, u32::wrapping_sub),
                    Binary::Mul => zip(a, b, out, u32::wrapping_mul),
                    Binary::Div => zip(a, b, out, |a, b| a.checked_div(b).unwrap_or(a)),
                    Binary::Max => zip(a, b, out, u32::max),
                    Binary::Min => zip(a, b, out, u32::min),
                    Binary::Rem => zip(a, b, out, |a, b| a.checked_rem(b).unwrap_or(0)),
                    Binary::And => zip(a, b, out, |a, b| a & b),
                    Binary::Or => zip(a, b, out, |a, b| a | b),
                    Binary::Xor => zip(a, b, out, |a, b| a ^ b),
                    Binary::Shl => zip(a, b, out, |a, b| a << (b & 31)),
                    Binary::Shr => zip(a, b, out, |a, b| a >> (b & 31)),
                    Binary::Pow => {}
                }
            }
            Scalar::Compare(f) => compare(*f, args[0], args[1], out),
            _ => {}
        }
    }

    /// CPU twin with float arguments and an integer result.
    pub fn test<T: Real>(&self, args: [&[T]; 3], out: &mut [u32]) {
        vectorized(
            #[inline(always)]
            || self.test_in(args, out),
        );
    }

    #[inline(always)]
    fn test_in<T: Real>(&self, args: [&[T]; 3], out: &mut [u32]) {
        match self {
            Scalar::Compare(f) => compare(*f, args[0], args[1], out),
            Scalar::ToInt => map(args[0], out, |x| x.f64() as u32),
            Scalar::IsFinite => map(args[0], out, |x| u32::from(x.is_finite())),
            _ => {}
        }
    }
}

/// CPU twin of [`Scalar::Iota`] from linear index `start` on.
pub(crate) fn iota(inner: u32, extent: u32, start: usize, out: &mut [u32]) {
    let (inner, extent) = (inner as usize, extent as usize);
    for (i, o) in (start..).zip(out) {
        *o = (i / inner % extent) as u32;
    }
}

/// CPU twin of [`Scalar::Select`].
pub(crate) fn select<E: Copy>(mask: &[u32], a: &[E], b: &[E], out: &mut [E]) {
    vectorized(
        #[inline(always)]
        || {
            for (((o, m), &a), &b) in out.iter_mut().zip(mask).zip(a).zip(b) {
                *o = if *m != 0 { a } else { b };
            }
        },
    );
}

/// CPU twin of [`Scalar::ToFloat`].
pub(crate) fn to_floats<T: Real>(x: &[u32], out: &mut [T]) {
    vectorized(
        #[inline(always)]
        || map(x, out, |x| T::of(f64::from(x))),
    );
}

#[inline(always)]
fn map<A: Copy, B>(a: &[A], out: &mut [B], f: impl Fn(A) -> B) {
    for (o, &a) in out.iter_mut().zip(a) {
        *o = f(a);
    }
}

#[inline(always)]
fn zip<A: Copy, B>(a: &[A], b: &[A], out: &mut [B], f: impl Fn(A, A) -> B) {
    for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *o = f(a, b);
    }
}

#[inline(always)]
fn compare<A: Copy + PartialOrd>(f: Compare, a: &[A], b: &[A], out: &mut [u32]) {
    match f {
        Compare::Lt => zip(a, b, out, |a, b| u32::from(a < b)),
        Compare::Le => zip(a, b, out, |a, b| u32::from(a <= b)),
        Compare::Gt => zip(a, b, out, |a, b| u32::from(a > b)),
        Compare::Ge => zip(a, b, out, |a, b| u32::from(a >= b)),
        Compare::Eq => zip(a, b, out, |a, b| u32::from(a == b)),
        Compare::Ne => zip(a, b, out, |a, b| u32::from(a != b)),
    }
}

#[inline(always)]
fn unary<T: Real>(f: Unary, a: &[T], out: &mut [T]) {
    let half = T::of(0.5);
    match f {
        Unary::Neg => map(a, out, |x| -x),
        Unary::Exp => map(a, out, T::exp),
        Unary::Ln => map(a, out, T::ln),
        Unary::Sqrt => map(a, out, T::sqrt),
        Unary::Recip => map(a, out, |x| T::ONE / x),
        Unary::Tanh => map(a, out, T::tanh),
        Unary::Sigmoid => map(a, out, |x| T::ONE / (T::ONE + (-x).exp())),
        Unary::Relu => map(a, out, |x| if x > T::ZERO { x } else { T::ZERO }),
        Unary::Elu => map(a, out, |x| if x > T::ZERO { x } else { x.exp() - T::ONE }),
        Unary::EluPlusOne => map(a, out, |x| if x > T::ZERO { x + T::ONE } else { x.exp() }),
        Unary::Erf => map(a, out, T::erf),
        Unary::Gelu => map(a, out, |x| x * half * (T::ONE + (x * T::of(GELU_HALF)).erf())),
        Unary::GeluSlope => map(a, out, |x| {
            let density = (-(x * x) * half).exp() * T::of(1.0 / (2.0 * std::f64::consts::PI).sqrt());
            half * (T::ONE + (x * T::of(GELU_HALF)).erf()) + x * density
        }),
        Unary::Sin => map(a, out, T::sin),
        Unary::Cos => map(a, out, T::cos),
        Unary::Abs => map(a, out, T::abs),
        Unary::Floor => map(a, out, T::floor),
    }
}
