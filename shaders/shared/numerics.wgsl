// WGSL has no infinities and may assume that there is no NaN: masks use LOWEST, NaN is tested by its bits.
const LOWEST: f32 = -3.4028234663852886e38;

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

// Complementary error function by a Chebyshev fit, relative error below 1.2e-7 (Press et al., Numerical Recipes, 6.2).
fn erfc_positive(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.5 * z);
    var p = 0.17087277;
    p = p * t - 0.82215223;
    p = p * t + 1.48851587;
    p = p * t - 1.13520398;
    p = p * t + 0.27886807;
    p = p * t - 0.18628806;
    p = p * t + 0.09678418;
    p = p * t + 0.37409196;
    p = p * t + 1.00002368;
    return t * exp(-z * z - 1.26551223 + t * p);
}

fn erf(x: f32) -> f32 {
    // Near 0 the difference 1 - erfc would cancel; the series has error below 1e-8 there.
    if (abs(x) < 0.3) {
        let s = x * x;
        return 1.1283791670955126 * x * (1.0 + s * (-0.33333333 + s * (0.1 + s * (-0.023809524 + s * 0.0046296296))));
    }
    let e = 1.0 - erfc_positive(abs(x));
    return select(-e, e, x > 0.0);
}

fn gelu(x: f32) -> f32 {
    return x * 0.5 * (1.0 + erf(x * 0.7071067811865476));
}

fn gelu_slope(x: f32) -> f32 {
    return 0.5 * (1.0 + erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * exp(-0.5 * x * x);
}
