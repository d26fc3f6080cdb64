// Running sums along the middle of [outer, n, inner], in pieces of `len` elements whose sums are in `sums`
// [outer, pieces, inner]. A piece starts from the sum of the pieces before it (after it, if REVERSE).
// #include "shared/grid.wgsl"
// #include "shared/row.wgsl"
override EXCLUSIVE: bool = false;
override REVERSE: bool = false;
struct Meta {
    rows: u32,
    n: u32,
    inner: u32,
    pieces: u32,
    len: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> m: Meta;

// Sum of the values of the lanes before this one; `partials` holds the sums up to each.
fn scan(value: f32, lid: u32) -> f32 {
    if (LANES == 1u) {
        return 0.0;
    }
    partials[lid] = value;
    workgroupBarrier();
    for (var s = 1u; s < 64u; s <<= 1u) {
        var before = 0.0;
        if (lid >= s) {
            before = partials[lid - s];
        }
        workgroupBarrier();
        partials[lid] += before;
        workgroupBarrier();
    }
    return select(partials[max(lid, 1u) - 1u], 0.0, lid == 0u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let r = row_of(workgroup_index(wid, wn), lid);
    let valid = r.row < m.rows;
    let j = r.row % m.inner;
    let p = r.row / m.inner % m.pieces;
    let o = r.row / (m.inner * m.pieces);
    var carry = 0.0;
    let first = select(0u, p + 1u, REVERSE);
    let last = select(0u, select(p, m.pieces, REVERSE), valid);
    for (var q = first + r.lane; q < last; q += LANES) {
        carry += sums[(o * m.pieces + q) * m.inner + j];
    }
    carry = row_sum(carry, lid);
    let start = p * m.len;
    let end = min(start + m.len, m.n);
    // Every lane takes part in every round: barriers stand in uniform control flow.
    for (var t = 0u; t < m.len; t += LANES) {
        let at = start + t + r.lane;
        let inside = valid && at < end;
        let i = select(at, end - 1u - (t + r.lane), REVERSE);
        let place = (o * m.n + i) * m.inner + j;
        var v = 0.0;
        if (inside) {
            v = x[place];
        }
        let before = carry + scan(v, lid);
        if (inside) {
            y[place] = select(before + v, before, EXCLUSIVE);
        }
        if (LANES == 1u) {
            carry += v;
        } else {
            carry += partials[63];
            workgroupBarrier();
        }
    }
}
