//! Loops in the widest vectors of the processor, without a line for any of them: a closure is compiled once for each set of
//! instructions, and what is inlined into it is vectorised. The lanes of sums are fixed, so results depend on the processor
//! no more than on the number of threads.
#![allow(clippy::needless_range_loop, reason = "one index names a lane of several arrays")]

use crate::types::Real;

/// Partial results of a sum or a maximum: two of AVX-512's registers, so that additions do not wait for each other.
const LANES: usize = 32;

/// Runs `f` compiled for the widest vector instructions of this processor. Only what is marked `#[inline(always)]`, closures
/// included, is certain to be compiled along with it.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Joins `f(a, b)` of all elements, which are as many in both: lanes side by side, then in pairs.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn fold<T: Real>(a: &[T], b: &[T], start: T, f: impl Fn(T, T) -> T, join: impl Fn(T, T) -> T) -> T {
    let mut sums = [start; LANES];
    let (a, rest_a) = a.as_chunks::<LANES>();
    let (b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] = join(sums[i], f(a[i], b[i]));
        }
    }
    // An array of its own for what has no fixed place: the other one lives in registers.
    let mut lanes = sums;
    for (lane, (&a, &b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *lane = join(*lane, f(a, b));
    }
    pairs(lanes, join)
}

/// Joins lanes in pairs.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
fn pairs<T: Real>(mut lanes: [T; LANES], join: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of `f(a, b)`, of both slices' elements.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn sum_by<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    fold(a, b, T::ZERO, f, |a, b| a + b)
}

/// Sum of all elements.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn sum<T: Real>(x: &[T]) -> T {
    sum_by(x, x, |x, _| x)
}

/// Sum of the products of elements.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    sum_by(a, b, |a, b| a * b)
}

/// The larger number; the first if the second is NaN.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn larger<T: Real>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// The largest element, at least `T::LOWEST`; NaN counts as nothing.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn max<T: Real>(x: &[T]) -> T {
    fold(x, x, T::LOWEST, |x, _| x, larger)
}

/// Both sums of `f(x)`.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn two_sums<T: Real>(x: &[T], f: impl Fn(T) -> [T; 2]) -> [T; 2] {
    let mut sums = [[T::ZERO; LANES]; 2];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            let [a, b] = f(chunk[i]);
            sums[0][i] += a;
            sums[1][i] += b;
        }
    }
    let mut lanes = sums;
    for (i, &x) in rest.iter().enumerate() {
        let [a, b] = f(x);
        lanes[0][i] += a;
        lanes[1][i] += b;
    }
    lanes.map(|lanes| pairs(lanes, |a, b| a + b))
}

/// Replaces every element by `f` of it and joins the results.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn map_fold<T: Real>(x: &mut [T], start: T, f: impl Fn(T) -> T, join: impl Fn(T, T) -> T) -> T {
    let mut joined = [start; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = f(chunk[i]);
            joined[i] = join(joined[i], chunk[i]);
        }
    }
    let mut lanes = joined;
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *x = f(*x);
        *lane = join(*lane, *x);
    }
    pairs(lanes, join)
}

/// Replaces every element by e^(element - top) and returns their sum.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn exp_sum<T: Real>(x: &mut [T], top: T) -> T {
    map_fold(x, T::ZERO, |x| (x - top).exp(), |a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_cover_all_elements() {
        for n in [0, 1, 31, 32, 33, 64, 97, 1000] {
            let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.125 - 1.0).collect();
            let double = |f: fn(f64) -> f64| x.iter().map(|x| f(f64::from(*x))).sum::<f64>();
            assert_eq!(f64::from(sum(&x)), double(|x| x));
            assert!((f64::from(dot(&x, &x)) - double(|x| x * x)).abs() <= 1e-6 * double(|x| x * x));
            assert_eq!(max(&x), x.last().copied().unwrap_or(f32::MIN));
            let mut powers = x.clone();
            let total = vectorized(
                #[inline(always)]
                || exp_sum(&mut powers, max(&x)),
            );
            assert_eq!(total, sum(&powers));
        }
        assert_eq!(max(&[f32::NAN, 1.0, f32::NAN]), 1.0);
    }

    #[test]
    fn every_set_of_instructions_gives_the_same_bits() {
        let x: Vec<f32> = (0..999).map(|i| (i * 7919 % 1000) as f32 * 0.01).collect();
        let run = |x: &mut [f32]| exp_sum(x, 9.5).ln().tanh();
        let (mut wide, mut plain) = (x.clone(), x);
        let result = vectorized(
            #[inline(always)]
            || run(&mut wide),
        );
        assert_eq!(result.to_bits(), std::hint::black_box(run)(&mut plain).to_bits());
        assert_eq!(wide, plain);
    }
}
