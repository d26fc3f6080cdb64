// Gradients of norm.wgsl to gamma and beta: sums over pieces of `len` rows, column by column.
// y is [1 or 2, pieces, n]: first sum g h, then, if BETA, sum g.
// #include "shared/grid.wgsl"
override CENTER: bool = false;
override BETA: bool = false;
struct Meta {
    rows: u32,
    n: u32,
    pieces: u32,
    len: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let at = workgroup_index(wid, wn) * 64u + lid;
    if (at >= m.pieces * m.n) {
        return;
    }
    let i = at % m.n;
    let start = at / m.n * m.len;
    let end = min(start + m.len, m.rows);
    var dot = 0.0;
    var sum = 0.0;
    for (var row = start; row < end; row++) {
        let up = g[row * m.n + i];
        let mean = select(0.0, stats[2u * row], CENTER);
        dot += up * (x[row * m.n + i] - mean) * stats[2u * row + 1u];
        sum += up;
    }
    y[at] = dot;
    if (BETA) {
        y[m.pieces * m.n + at] = sum;
    }
}
