// Gradient of the scores from the cotangents of all potentials: weights of every half step times the cotangent of the
// potential it made, and of the plan itself.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/sinkhorn.wgsl"
// #include "shared/sinkhorn_weight.wgsl"
@group(0) @binding(4) var<storage, read> g: array<f32>;
@group(0) @binding(5) var<storage, read> slot_flow: array<f32>;
@group(0) @binding(6) var<storage, read> token_flow: array<f32>;
@group(0) @binding(7) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(8) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    let row = i / m.tokens;
    if (row >= m.batches * m.slots) {
        return;
    }
    let batch = row / m.slots;
    let slot = row % m.slots;
    let token = i % m.tokens;
    var total = 0.0;
    for (var t = 0u; t < m.steps; t++) {
        let before = select(t - 1u, NONE, t == 0u);
        let du = slot_flow[(batch * m.steps + t) * m.slots + slot];
        var dv = token_flow[(batch * m.steps + t) * m.tokens + token];
        if (t + 1u == m.steps) {
            dv += g[i];
        }
        total += du * weight_at(m, batch, slot, token, t, before, true);
        total += dv * weight_at(m, batch, slot, token, t, t, false);
    }
    gradient[i] = total;
}
