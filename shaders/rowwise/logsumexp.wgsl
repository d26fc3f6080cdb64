// y[row] = max x + ln sum exp(x - max x).
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/row.wgsl"
struct Meta {
    rows: u32,
    n: u32,
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
    let n = select(0u, m.n, r.row < m.rows);
    let base = m.offset + r.row * m.n;
    var top = LOWEST;
    for (var i = r.lane; i < n; i += LANES) {
        top = max(top, x[base + i]);
    }
    top = row_max(top, lid);
    var total = 0.0;
    for (var i = r.lane; i < n; i += LANES) {
        total += exp(x[base + i] - top);
    }
    total = row_sum(total, lid);
    if (r.row < m.rows && r.lane == 0u) {
        y[r.row] = top + log(total);
    }
}
