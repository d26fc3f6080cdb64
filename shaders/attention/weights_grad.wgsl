// Products of queries and keys become weights, and products of cotangents and values the gradients of the former, both in
// place (attention/backward.wgsl has the formulas). For software drivers: an invocation has four keys of a query.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/keys.wgsl"
// #include "shared/weights.wgsl"
@group(0) @binding(0) var<storage, read> mask: array<u32>;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
// (logsumexp, delta) of every query.
@group(0) @binding(2) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> scores: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> grads: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    let quads = m.keys / 4u;
    let row = i / quads;
    let batch = row / (m.queries * m.heads);
    if (batch >= m.batches) {
        return;
    }
    let stat = stats[row];
    if (stat.x < 0.5 * LOWEST) {
        scores[i] = vec4<f32>(blind_weight());
        grads[i] = vec4<f32>();
        return;
    }
    let seen = visible(batch, 4u * (i % quads), interval(row % m.queries, key_count(batch)));
    let p = select(vec4<f32>(), exp(m.scale * scores[i] - stat.x), seen);
    scores[i] = p;
    grads[i] = select(vec4<f32>(), m.scale * p * (grads[i] - stat.y), seen);
}
