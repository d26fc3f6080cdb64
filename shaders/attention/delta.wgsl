// For every query (logsumexp, sum(cotangent * out) - cotangent of the logsumexp): what the gradient of a softmax needs.
// #include "shared/grid.wgsl"
struct Meta {
    rows: u32,
    heads: u32,
    queries: u32,
    width: u32,
    extra: u32,
    offset: u32,
    g: vec4<u32>,
}
@group(0) @binding(0) var<storage, read> out: array<f32>;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> logsumexp: array<f32>;
@group(0) @binding(3) var<storage, read> g_logsumexp: array<f32>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = workgroup_index(wid, wn) * 64u + lid;
    if (row >= m.rows) {
        return;
    }
    let query = row % m.queries;
    let head = (row / m.queries) % m.heads;
    let batch = row / (m.queries * m.heads);
    let at = m.offset + batch * m.g.x + head * m.g.y + query * m.g.z;
    var delta = 0.0;
    for (var f = 0u; f < m.width; f++) {
        delta += out[row * m.width + f] * g[at + f * m.g.w];
    }
    if (m.extra == 1u) {
        delta -= g_logsumexp[row];
    }
    stats[row] = vec2<f32>(logsumexp[row], delta);
}
