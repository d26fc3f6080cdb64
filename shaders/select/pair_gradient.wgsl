// Cotangents of sums to the entries of both lists that make them up: an entry an invocation.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    a: u32,
    b: u32,
    k: u32,
}
@group(0) @binding(0) var<storage, read> cotangents: array<f32>;
@group(0) @binding(1) var<storage, read> pairs: array<u32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let item = workgroup_index(wid, wn) * 64u + lid;
    if (item >= m.n) {
        return;
    }
    let row = item / (m.a + m.b);
    let entry = item % (m.a + m.b);
    let first = entry < m.a;
    var total = 0.0;
    for (var i = row * m.k; i < (row + 1u) * m.k; i++) {
        let pair = pairs[i];
        if (select(pair % m.b + m.a, pair / m.b, first) == entry) {
            total += cotangents[i];
        }
    }
    if (first) {
        x[row * m.a + entry] = total;
    } else {
        y[row * m.b + entry - m.a] = total;
    }
}
