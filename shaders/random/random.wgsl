// Random numbers, two an invocation. Kind 0: bits, 1: uniform in [0, 1), 2: normal, 3: Gumbel.
// #include "shared/grid.wgsl"
// #include "shared/threefry.wgsl"
override KIND: u32 = 0u;
struct Meta {
    n: u32,
    site: u32,
    // 1 if the first axis is shared out among ranks.
    split: u32,
}
@group(0) @binding(0) var<storage, read_write> output: array<u32>;
@group(0) @binding(1) var<uniform> m: Meta;
// Step, seed low, seed high, rank.
@group(0) @binding(2) var<uniform> globals: vec4<u32>;

// Uniform in (0, 1), both ends excluded, exactly: odd multiples of 2^-24.
fn open_unit(bits: u32) -> f32 {
    return (f32(bits >> 9u) + 0.5) * 1.1920928955078125e-7;
}

// -ln u for u in (0, 1). WGSL's log has an absolute error near 1; there the series of -ln(1 - v) takes over.
fn minus_log(u: f32) -> f32 {
    let v = 1.0 - u;
    let series = v * (1.0 + v * (0.5 + v * (0.33333333 + v * (0.25 + v * (0.2 + v * (0.16666667 + v * 0.14285714))))));
    return select(-log(u), series, v < 0.1);
}

fn pair(bits: vec2<u32>) -> vec2<u32> {
    if (KIND == 0u) {
        return bits;
    }
    if (KIND == 1u) {
        return bitcast<vec2<u32>>(vec2<f32>(unit(bits.x), unit(bits.y)));
    }
    if (KIND == 2u) {
        // Box and Muller 1958; the angle in [-pi, pi), where WGSL bounds the error of sin and cos.
        let radius = sqrt(2.0 * minus_log(open_unit(bits.x)));
        let angle = 6.283185307179586 * (unit(bits.y) - 0.5);
        return bitcast<vec2<u32>>(radius * vec2<f32>(cos(angle), sin(angle)));
    }
    let x = -log(minus_log(open_unit(bits.x)));
    let y = -log(minus_log(open_unit(bits.y)));
    return bitcast<vec2<u32>>(vec2<f32>(x, y));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let j = workgroup_index(wid, wn) * 64u + lid;
    let i = 2u * j;
    if (i >= m.n) {
        return;
    }
    let key = threefry2x32(globals.yz, vec2<u32>(globals.x, m.site));
    // The element's place in what all ranks draw together.
    let at = i + m.split * globals.w * m.n;
    var values = pair(threefry2x32(key, vec2<u32>(at >> 1u, 0u)));
    if ((at & 1u) == 1u) {
        let next = pair(threefry2x32(key, vec2<u32>((at + 1u) >> 1u, 0u)));
        values = vec2<u32>(values.y, next.x);
    }
    output[i] = values.x;
    if (i + 1u < m.n) {
        output[i + 1u] = values.y;
    }
}
