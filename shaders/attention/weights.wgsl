// Products of queries and keys become weights, in place; and the logarithms of the sums of exponentials. For software drivers:
// an invocation has a query, whose keys are a multiple of four.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/keys.wgsl"
// #include "shared/weights.wgsl"
@group(0) @binding(0) var<storage, read> mask: array<u32>;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read_write> scores: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> logsumexp: array<f32>;
@group(0) @binding(4) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = workgroup_index(wid, wn) * 64u + lid;
    let batch = row / (m.queries * m.heads);
    if (batch >= m.batches) {
        return;
    }
    let seen = interval(row % m.queries, key_count(batch));
    let quads = m.keys / 4u;
    let start = row * quads;
    var highest = vec4<f32>(LOWEST);
    for (var n = 0u; n < quads; n++) {
        let s = m.scale * scores[start + n];
        highest = max(highest, select(vec4<f32>(LOWEST), s, visible(batch, 4u * n, seen)));
    }
    let top = max(max(highest.x, highest.y), max(highest.z, highest.w));
    var sums = vec4<f32>();
    for (var n = 0u; n < quads; n++) {
        let s = m.scale * scores[start + n];
        let p = select(vec4<f32>(), exp(s - top), visible(batch, 4u * n, seen));
        scores[start + n] = p;
        sums += p;
    }
    let sum = (sums.x + sums.y) + (sums.z + sums.w);
    for (var n = 0u; n < quads; n++) {
        if (sum == 0.0) {
            scores[start + n] = vec4<f32>(blind_weight());
        } else {
            scores[start + n] /= sum;
        }
    }
    logsumexp[row] = select(top + log(sum), LOWEST, sum == 0.0);
}
