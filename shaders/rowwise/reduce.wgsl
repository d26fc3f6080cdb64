// Reduces the middle of [outer, n, inner] to [outer, pieces, inner], each piece covering `len` elements.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/row.wgsl"
override MAX: bool = false;
override SQUARE: bool = false;
// -1 turns the maximum into the minimum.
override SIGN: f32 = 1.0;
struct Meta {
    outputs: u32,
    n: u32,
    inner: u32,
    pieces: u32,
    len: u32,
    offset: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let r = row_of(workgroup_index(wid, wn), lid);
    let j = r.row % m.inner;
    let p = (r.row / m.inner) % m.pieces;
    let o = r.row / (m.inner * m.pieces);
    let start = p * m.len;
    let end = select(0u, min(start + m.len, m.n), r.row < m.outputs);
    let base = m.offset + o * m.n * m.inner + j;
    if (MAX) {
        var top = LOWEST;
        for (var i = start + r.lane; i < end; i += LANES) {
            top = max(top, SIGN * x[base + i * m.inner]);
        }
        top = row_max(top, lid);
        if (r.row < m.outputs && r.lane == 0u) {
            y[r.row] = SIGN * top;
        }
    } else {
        var total = 0.0;
        for (var i = start + r.lane; i < end; i += LANES) {
            let v = x[base + i * m.inner];
            total += select(v, v * v, SQUARE);
        }
        total = row_sum(total, lid);
        if (r.row < m.outputs && r.lane == 0u) {
            y[r.row] = total;
        }
    }
}
