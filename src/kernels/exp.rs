//! Exponentials of whole slices, the hot spot of softmax on the CPU.

use crate::types::Real;

/// Runs `f` compiled for the widest vector instructions of this processor; loops inlined into it are vectorised.
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// e^x within 2 units in the last place over the whole range, without branches so that loops vectorise. Reduction by
/// ln 2 in two parts and the polynomial of Cephes' `expf` (Moshier).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Comparisons rather than min and max: NaN stays NaN.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * (r * r) + r + 1.0;
    // 2^n as two factors, for results near both ends of the range.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let (a, b) = (n >> 1, n.wrapping_sub(n >> 1));
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    p * power(a) * power(b)
}

/// The same slice as `f32`, if that is what it holds.
fn single<T: Real>(x: &mut [T]) -> Option<&mut [f32]> {
    if size_of::<T>() == size_of::<f32>() { bytemuck::try_cast_slice_mut(x).ok() } else { None }
}

/// Replaces every element by e to its power.
pub fn exp_slice<T: Real>(x: &mut [T]) {
    if let Some(x) = single(x) {
        return vectorized(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x = exp(*x)),
        );
    }
    x.iter_mut().for_each(|x| *x = x.exp());
}

/// Replaces every element by e^(element - top) and returns their sum, added up in a fixed order.
pub fn exp_sum<T: Real>(x: &mut [T], top: T) -> T {
    if let Some(x) = single(x) {
        let top = top.f64() as f32;
        let sum = vectorized(
            #[inline(always)]
            || exp_sum_single(x, top),
        );
        return T::of(f64::from(sum));
    }
    let mut sum = T::ZERO;
    for x in x {
        *x = (*x - top).exp();
        sum += *x;
    }
    sum
}

#[inline(always)]
fn exp_sum_single(x: &mut [f32], top: f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let mut chunks = x.chunks_exact_mut(16);
    for chunk in &mut chunks {
        for (l, x) in lanes.iter_mut().zip(chunk) {
            *x = exp(*x - top);
            *l += *x;
        }
    }
    for (l, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *x = exp(*x - top);
        *l += *x;
    }
    lanes.iter().sum()
}

/// The largest element, at least `T::LOWEST`.
pub fn max<T: Real>(x: &[T]) -> T {
    // Lanes of their own: a single running maximum is one long chain.
    let mut lanes = [T::LOWEST; 16];
    for chunk in x.chunks(16) {
        for (l, &x) in lanes.iter_mut().zip(chunk) {
            *l = if x > *l { x } else { *l };
        }
    }
    lanes.into_iter().fold(T::LOWEST, T::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_double_precision() {
        let mut worst = 0.0f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!((exp(-100.0) - 3.8e-44).abs() < 2e-45);
        assert!((f64::from(exp(88.7)) / 88.7f32.exp() as f64 - 1.0).abs() < 2e-7);
    }

    #[test]
    fn sums_rows() {
        let mut row: Vec<f32> = (0..37).map(|i| i as f32 * 0.1).collect();
        let want: f32 = row.iter().map(|x| (x - 3.0).exp()).sum();
        assert!((exp_sum(&mut row, 3.0) - want).abs() < 1e-5);
        assert_eq!(max(&[1.0f32, 5.0, -2.0]), 5.0);
    }
}
