//! Half precision in storage: IEEE binary16, two to a word, the first in the low bits.
//!
//! ```
//! use wgrad::ops::bank::half;
//!
//! assert_eq!(half::from_bits(half::to_bits(0.5)), 0.5);
//! assert_eq!(half::from_bits(half::to_bits(1e9)), 65_504.0); // cut, not infinite
//! ```

use crate::types::Real;

/// The nearest half, to even at ties; subnormals become 0, what is too large 65,504, NaN stays. As `shaders/shared/half.wgsl`,
/// bit for bit.
pub fn to_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let (sign, size) = ((bits >> 16) & 0x8000, bits & 0x7fff_ffff);
    if size > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    if size < 0x3880_0000 {
        return sign;
    }
    let moved = size.min(0x477f_e000) - 0x3800_0000;
    sign | ((moved + 0xfff + ((moved >> 13) & 1)) >> 13).min(0x7bff)
}

/// The value of a half that [`to_bits`] gave.
#[inline(always)]
pub fn from_bits(half: u32) -> f32 {
    let (sign, size) = ((half & 0x8000) << 16, half & 0x7fff);
    // The exponent is moved by a product with 2^112, which is exact.
    let value = (f32::from_bits(size << 13) * f32::from_bits((127 + 112) << 23)).to_bits();
    f32::from_bits(sign | if size >= 0x7c00 { 0x7fc0_0000 } else { value })
}

/// Packs a row.
pub(super) fn pack<T: Real>(row: &[T], out: &mut [u32]) {
    for (word, pair) in out.iter_mut().zip(row.chunks(2)) {
        let half = |i: usize| pair.get(i).map_or(0, |x| to_bits(x.f64() as f32));
        *word = half(0) | (half(1) << 16);
    }
}

/// Unpacks a row.
#[inline(always)]
pub(super) fn unpack<T: Real>(words: &[u32], out: &mut [T]) {
    let value = |half: u32| T::of(f64::from(from_bits(half & 0xffff)));
    let mut pairs = out.chunks_exact_mut(2);
    for (pair, word) in (&mut pairs).zip(words) {
        if let [a, b] = pair {
            (*a, *b) = (value(*word), value(*word >> 16));
        }
    }
    if let ([last], Some(word)) = (pairs.into_remainder(), words.last()) {
        *last = value(*word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_to_the_nearest() {
        for (x, want) in [
            (0.0, 0.0),
            (1.0, 1.0),
            (-1.5, -1.5),
            (1.0 + 1.0 / 2048.0, 1.0),
            (1.0 + 3.0 / 2048.0, 1.0 + 4.0 / 2048.0),
            (1.0 + 1.1 / 2048.0, 1.0 + 2.0 / 2048.0),
            (65_504.0, 65_504.0),
            (65_519.0, 65_504.0),
            (1e30, 65_504.0),
            (f32::NEG_INFINITY, -65_504.0),
            (6.1035156e-5, 6.1035156e-5),
            (6e-5, 0.0),
        ] {
            assert_eq!(from_bits(to_bits(x)), want, "{x}");
        }
        assert!(from_bits(to_bits(f32::NAN)).is_nan());
        // Every normal half comes back as it was.
        for bits in (0u32..0x10000).filter(|b| (0x400..0x7c00).contains(&(b & 0x7fff))) {
            assert_eq!(to_bits(from_bits(bits)), bits);
        }
    }
}
