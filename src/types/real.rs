//! Arithmetic of the CPU twins, generic over the precision.

use super::math;
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

/// A float type of the CPU executor: `f32` runs, `f64` is the oracle.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Sum
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + bytemuck::Pod
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Lowest finite value of `f32`, used for masked scores.
    const LOWEST: Self;
    /// Nearest value to `x`.
    fn of(x: f64) -> Self;
    /// As `f64`.
    fn f64(self) -> f64;
    /// e^self.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Sine.
    fn sin(self) -> Self;
    /// Cosine.
    fn cos(self) -> Self;
    /// self^p.
    fn powf(self, p: Self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Largest integer not above.
    fn floor(self) -> Self;
    /// The larger; the other one if one is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller; the other one if one is NaN.
    fn min(self, other: Self) -> Self;
    /// Whether the value is neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// Gauss error function.
    fn erf(self) -> Self;
}

macro_rules! real {
    ($t:ident, $exp:path, $ln:path, $tanh:path, $erf:path) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = f32::MIN as $t;
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn of(x: f64) -> Self {
                x as $t
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn f64(self) -> f64 {
                self as f64
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn ln(self) -> Self {
                $ln(self)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn tanh(self) -> Self {
                $tanh(self)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn sin(self) -> Self {
                $t::sin(self)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn cos(self) -> Self {
                $t::cos(self)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn powf(self, p: Self) -> Self {
                $t::powf(self, p)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn abs(self) -> Self {
                $t::abs(self)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn floor(self) -> Self {
                $t::floor(self)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn max(self, other: Self) -> Self {
                $t::max(self, other)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn min(self, other: Self) -> Self {
                $t::min(self, other)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn is_finite(self) -> bool {
                $t::is_finite(self)
            }
            #[cfg_attr(not(target_arch = "wasm32"), inline(always))]
            fn erf(self) -> Self {
                $erf(self)
            }
        }
    };
}

// Single precision is what runs: functions that vectorise. Double precision is the oracle and has the standard library's.
real!(f32, math::exp, math::ln, math::tanh, math::erf);
real!(f64, f64::exp, f64::ln, f64::tanh, libm::erf);
