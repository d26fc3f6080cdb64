// loss[row] = ln total - (x[label] - max x), stats = (max x, total = sum exp(x - max x)); 0 for rows without a label.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/row.wgsl"
struct Meta {
    rows: u32,
    n: u32,
    ignore: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;
@group(0) @binding(4) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let r = row_of(workgroup_index(wid, wn), lid);
    let n = select(0u, m.n, r.row < m.rows);
    let base = r.row * m.n;
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
        let label = labels[r.row];
        var value = 0.0;
        if (label < m.n && label != m.ignore) {
            value = log(total) - (x[base + label] - top);
        }
        loss[r.row] = value;
        stats[2u * r.row] = top;
        stats[2u * r.row + 1u] = total;
    }
}
