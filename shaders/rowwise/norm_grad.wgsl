// Gradient of norm.wgsl to x: with h = normalized x, d = g gamma,
// dx = factor (d - mean d [CENTER] - h sum(d h) share), share = 1/n or 1/scale^2, 0 where the norm was clamped.
// #include "shared/grid.wgsl"
// #include "shared/row.wgsl"
override CENTER: bool = false;
override GAMMA: bool = false;
struct Meta {
    rows: u32,
    n: u32,
    eps: f32,
    share: f32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read> gamma: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;

fn upstream(base: u32, i: u32) -> f32 {
    if (GAMMA) {
        return g[base + i] * gamma[i];
    }
    return g[base + i];
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let r = row_of(workgroup_index(wid, wn), lid);
    let n = select(0u, m.n, r.row < m.rows);
    let base = r.row * m.n;
    let row = min(r.row, m.rows - 1u);
    let first = stats[2u * row];
    let factor = stats[2u * row + 1u];
    let mean = select(0.0, first, CENTER);
    var sum = 0.0;
    var dot = 0.0;
    for (var i = r.lane; i < n; i += LANES) {
        let d = upstream(base, i);
        sum += d;
        dot += d * (x[base + i] - mean) * factor;
    }
    if (CENTER) {
        sum = row_sum(sum, lid) / f32(m.n);
    } else {
        sum = 0.0;
    }
    dot = row_sum(dot, lid);
    let share = select(0.0, dot * m.share, CENTER || first > m.eps);
    for (var i = r.lane; i < n; i += LANES) {
        let h = (x[base + i] - mean) * factor;
        dx[base + i] = factor * (upstream(base, i) - sum - h * share);
    }
}
