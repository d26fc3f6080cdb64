// Rows of scores with a mask, as the soft top-k kernels read them. A kernel's Meta has `masked`, its uniform is `m`.
@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read> mask: array<u32>;
// Larger magnitudes count as this one, so that no difference or sum of two overflows.
const BOUND: f32 = 1.5e38;
// e^x is 0 in single precision below this.
const FLOOR: f32 = -104.0;

fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// Masked scores and NaN take no part.
fn takes_part(i: u32) -> bool {
    if (m.masked == 1u && mask[i] == 0u) {
        return false;
    }
    return !is_nan(scores[i]);
}

fn score(i: u32) -> f32 {
    return clamp(scores[i], -BOUND, BOUND);
}

// exp((s - x) / e) for s at or barely above x, without overflow.
fn weight(s: f32, x: f32, e: f32) -> f32 {
    return exp(max(s - x, FLOOR * e) / e);
}

// Exponentials around a center serve all levels of clipping that lie no farther from it than this, in units of epsilon ...
const REACH: f32 = 8.0;
// ... and are cut here, above every level.
const CAP: f32 = 16.0;

// exp((s - center) / e) of score i; 0 of what takes no part.
fn power(i: u32, center: f32, e: f32) -> f32 {
    if (!takes_part(i)) {
        return 0.0;
    }
    return exp(clamp(score(i) - center, FLOOR * e, CAP * e) / e);
}

// Result of score i in a row solved by the pair (p, d): exp(min((s - p) + d, 0) / e); NaN stays, masked ones are 0.
fn soft(i: u32, p: f32, d: f32, e: f32) -> f32 {
    if (m.masked == 1u && mask[i] == 0u) {
        return 0.0;
    }
    if (is_nan(scores[i])) {
        return scores[i];
    }
    return exp(max(min((score(i) - p) + d, 0.0), FLOOR * e) / e);
}
