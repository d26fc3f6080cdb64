// Rotary embedding: one invocation a pair of features, or a feature that is passed through.
//
// sin and cos of large angles are loose in WGSL, and position * frequency in f32 loses the angle long before a million.
// So angles are counted in turns, in fixed point: the product of a position and a frequency of 64 fractional bits wraps
// around as angles do, and is exact. What is left, within an eighth of a turn, goes through polynomials.
// #include "shared/grid.wgsl"
struct Meta {
    rows: u32,
    positions: u32,
    rows_per_batch: u32,
    per_batch: u32,
    width: u32,
    pairs: u32,
    interleaved: u32,
    reverse: u32,
    offset: u32,
    stride: u32,
    rank: u32,
    xpos: u32,
    center: f32,
    // 1 / base of the exponent, negative for keys.
    exponent: f32,
    dims: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
// Turns per position, high and low word; then the bits of log2 of the xPos base.
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> m: Meta;

// High word of the product.
fn multiply_high(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let low = al * bl;
    let middle = ah * bl + (low >> 16u);
    let other = al * bh + (middle & 0xffffu);
    return ah * bh + (middle >> 16u) + (other >> 16u);
}

// (cos, sin) of phase / 2^32 turns, absolute error below 2e-7 (polynomials of Cephes' sinf and cosf, Moshier).
fn cos_sin(phase: u32) -> vec2<f32> {
    let quarter = (phase + 0x20000000u) >> 30u;
    let r = f32(bitcast<i32>(phase - (quarter << 30u))) * 1.4629180792671596e-9;
    let z = r * r;
    let s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r;
    let c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0;
    let swapped = select(vec2<f32>(c, s), vec2<f32>(-s, c), (quarter & 1u) == 1u);
    return select(swapped, -swapped, (quarter & 2u) == 2u);
}

fn row_start(row: u32) -> u32 {
    var rest = row;
    var at = m.offset;
    for (var k = m.rank; k > 0u; k--) {
        let d = k - 1u;
        let dim = m.dims[d / 4u][d % 4u];
        at += (rest % dim) * m.strides[d / 4u][d % 4u];
        rest = rest / dim;
    }
    return at;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    let items = m.width - m.pairs;
    if (i >= m.rows * items) {
        return;
    }
    let row = i / items;
    let item = i % items;
    let from = row_start(row);
    let to = row * m.width;
    if (item >= m.pairs) {
        let f = m.pairs + item;
        y[to + f] = x[from + f * m.stride];
        return;
    }
    var entry = row % m.positions;
    if (m.per_batch == 1u) {
        entry += (row / m.rows_per_batch) * m.positions;
    }
    let p = positions[entry];
    let phase = p * table[item] + multiply_high(p, table[m.pairs + item]);
    var turn = cos_sin(phase);
    if (m.reverse == 1u) {
        turn.y = -turn.y;
    }
    if (m.xpos == 1u) {
        let power = (f32(p) - m.center) * m.exponent;
        turn *= exp2(power * bitcast<f32>(table[2u * m.pairs + item]));
    }
    let a = select(item, 2u * item, m.interleaved == 1u);
    let b = select(item + m.pairs, 2u * item + 1u, m.interleaved == 1u);
    let xa = x[from + a * m.stride];
    let xb = x[from + b * m.stride];
    y[to + a] = xa * turn.x - xb * turn.y;
    y[to + b] = xb * turn.x + xa * turn.y;
}
