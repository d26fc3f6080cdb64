//! Functions of single precision in straight lines without calls or branches, so that loops over them vectorise. Errors are a
//! few units in the last place (tests below), results the same on every processor: nothing is fused. Polynomials of Cephes
//! (Moshier 1992) unless said otherwise.

/// `ln 2` in two parts, the first of few digits.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `((c[0] x + c[1]) x + c[2]) x ..`
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    let mut i = 1;
    while i < N {
        sum = sum * x + coefficients[i];
        i += 1;
    }
    sum
}

/// e^x.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn exp(x: f32) -> f32 {
    // Comparisons rather than min and max: NaN stays NaN.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let p = polynomial(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let p = p * (r * r) + r + 1.0;
    // 2^n as two factors, for results near both ends of the range.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let (a, b) = (n >> 1, n.wrapping_sub(n >> 1));
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    p * power(a) * power(b)
}

/// Natural logarithm.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn ln(x: f32) -> f32 {
    let subnormal = x < f32::MIN_POSITIVE;
    let bits = (if subnormal { x * 8_388_608.0 } else { x }).to_bits();
    // x = m 2^n with m from sqrt(1/2) to sqrt(2).
    let n = (bits.wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits()) as i32) >> 23;
    let r = f32::from_bits(bits.wrapping_sub((n << 23) as u32)) - 1.0;
    let n = n as f32 - if subnormal { 23.0 } else { 0.0 };
    let p = polynomial(
        r,
        [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            0.333_333_3,
        ],
    );
    let square = r * r;
    let y = (p * r * square + n * LN_2[1] - 0.5 * square) + r + n * LN_2[0];
    let y = if x < f32::INFINITY { y } else { x };
    let edge = if x == 0.0 { f32::NEG_INFINITY } else { f32::NAN };
    if x > 0.0 { y } else { edge }
}

/// Hyperbolic tangent.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn tanh(x: f32) -> f32 {
    let (size, square) = (x.abs(), x * x);
    let p = polynomial(square, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -0.333_332_8]);
    let near = p * square * x + x;
    let far = (1.0 - 2.0 / (exp(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { near } else { far }
}

/// Gauss error function: a quotient of polynomials as in Eigen's vectorised one, 1 where it rounds to that.
#[cfg_attr(not(target_arch = "wasm32"), inline(always))]
pub fn erf(x: f32) -> f32 {
    let square = x * x;
    let top =
        [-2.726_142_3e-10, 2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906e-4, -2.954_6e-3, -1.609_603_3e-2];
    let bottom = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2];
    let y = x * (polynomial(square, top) / polynomial(square, bottom));
    if x.abs() > 3.92 { 1.0f32.copysign(x) } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `step`-th float, of both signs.
    fn floats(step: usize) -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(step).map(f32::from_bits).filter(|x| x.is_finite())
    }

    /// The worst error in units in the last place of the result, `floor` the least unit that counts.
    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, floor: f64, range: std::ops::Range<f32>) -> f64 {
        let mut worst = 0.0f64;
        for x in floats(509).filter(|x| range.contains(x)) {
            let want = exact(f64::from(x));
            let unit = (want.abs() * f64::from(f32::EPSILON)).max(floor);
            let error = (f64::from(f(x)) - want).abs() / unit;
            assert!(error < 10.0, "{x}: {} instead of {want}", f(x));
            worst = worst.max(error);
        }
        worst
    }

    #[test]
    fn errors_are_few_units() {
        let least = f64::from(f32::from_bits(1));
        let all = f32::NEG_INFINITY..f32::INFINITY;
        let exp_error = worst(exp, f64::exp, least, f32::NEG_INFINITY..88.72);
        let ln_error = worst(ln, f64::ln, least, f32::MIN_POSITIVE * 1e-6..f32::INFINITY);
        let tanh_error = worst(tanh, f64::tanh, least, all.clone());
        let erf_error = worst(erf, libm::erf, least, all);
        let errors = [exp_error, ln_error, tanh_error, erf_error];
        assert!(errors.iter().zip([2.0, 2.0, 3.0, 6.0]).all(|(e, most)| *e < most), "{errors:?}");
    }

    #[test]
    fn edges() {
        assert_eq!([exp(-1000.0), exp(f32::MIN), exp(f32::NEG_INFINITY)], [0.0; 3]);
        assert_eq!([exp(0.0), exp(-0.0)], [1.0; 2]);
        assert_eq!([exp(1000.0), exp(f32::INFINITY)], [f32::INFINITY; 2]);
        assert!((exp(-100.0) - 3.8e-44).abs() < 2e-45);
        assert_eq!([ln(0.0), ln(-0.0)], [f32::NEG_INFINITY; 2]);
        assert_eq!([ln(1.0), ln(f32::INFINITY)], [0.0, f32::INFINITY]);
        assert!(ln(-1.0).is_nan() && ln(f32::NEG_INFINITY).is_nan());
        assert!((ln(f32::from_bits(1)) + 103.278_93).abs() < 1e-5);
        assert_eq!([tanh(f32::INFINITY), tanh(f32::NEG_INFINITY), tanh(0.0)], [1.0, -1.0, 0.0]);
        assert_eq!([erf(f32::INFINITY), erf(f32::NEG_INFINITY), erf(0.0)], [1.0, -1.0, 0.0]);
        assert!([exp, ln, tanh, erf].iter().all(|f| f(f32::NAN).is_nan()));
    }
}
