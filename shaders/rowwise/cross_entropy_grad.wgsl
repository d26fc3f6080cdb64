// dx = (exp(x - max) / total - [label]) g[row]; 0 for rows without a label.
// #include "shared/grid.wgsl"
struct Meta {
    rows: u32,
    n: u32,
    ignore: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read> stats: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let at = workgroup_index(wid, wn) * 64u + lid;
    if (at >= m.rows * m.n) {
        return;
    }
    let row = at / m.n;
    let label = labels[row];
    var slope = 0.0;
    if (label < m.n && label != m.ignore) {
        let p = exp(x[at] - stats[2u * row]) / stats[2u * row + 1u];
        slope = (p - select(0.0, 1.0, at % m.n == label)) * g[row];
    }
    dx[at] = slope;
}
