// Factor on all gradients so that their common norm is at most max_norm; 0 switches clipping off.
fn clip_factor(norm_sq: f32, max_norm: f32) -> f32 {
    if (max_norm <= 0.0) {
        return 1.0;
    }
    return min(1.0, max_norm / (sqrt(norm_sq) + 1e-6));
}

// 1 - e^x for x <= 0; the series keeps all digits where the difference would cancel.
fn one_minus_exp(x: f32) -> f32 {
    if (x < -0.5) {
        return 1.0 - exp(x);
    }
    var s = 1.0;
    for (var k = 9u; k > 1u; k--) {
        s = 1.0 + s * x / f32(k);
    }
    return -x * s;
}
