// The transport plan: exp(scores - potentials of the last iteration), 0 for hidden tokens.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/sinkhorn.wgsl"
// #include "shared/sinkhorn_weight.wgsl"
@group(0) @binding(4) var<storage, read_write> plan: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    let slot = i / m.tokens;
    if (slot >= m.batches * m.slots) {
        return;
    }
    let last = m.steps - 1u;
    plan[i] = weight_at(m, slot / m.slots, slot % m.slots, i % m.tokens, last, last, false);
}
