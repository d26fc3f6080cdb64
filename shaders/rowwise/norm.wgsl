// CENTER: y = (x - mean) rstd, stats = (mean, rstd). Else y = x r, r = scale / max(|x|, eps), stats = (|x|, r).
// Then y = y gamma + beta where these exist.
// #include "shared/grid.wgsl"
// #include "shared/row.wgsl"
override CENTER: bool = false;
override GAMMA: bool = false;
override BETA: bool = false;
struct Meta {
    rows: u32,
    n: u32,
    eps: f32,
    scale: f32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> stats: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let r = row_of(workgroup_index(wid, wn), lid);
    let n = select(0u, m.n, r.row < m.rows);
    let base = r.row * m.n;
    var mean = 0.0;
    if (CENTER) {
        for (var i = r.lane; i < n; i += LANES) {
            mean += x[base + i];
        }
        mean = row_sum(mean, lid) / f32(m.n);
    }
    var squares = 0.0;
    for (var i = r.lane; i < n; i += LANES) {
        let d = x[base + i] - mean;
        squares += d * d;
    }
    squares = row_sum(squares, lid);
    let norm = sqrt(squares);
    let factor = select(m.scale / max(norm, m.eps), 1.0 / sqrt(squares / f32(m.n) + m.eps), CENTER);
    for (var i = r.lane; i < n; i += LANES) {
        var v = (x[base + i] - mean) * factor;
        if (GAMMA) {
            v *= gamma[i];
        }
        if (BETA) {
            v += beta[i];
        }
        y[base + i] = v;
    }
    if (r.row < m.rows && r.lane == 0u) {
        stats[2u * r.row] = select(norm, mean, CENTER);
        stats[2u * r.row + 1u] = factor;
    }
}
