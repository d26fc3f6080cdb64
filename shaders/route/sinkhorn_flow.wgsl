// Cotangents of all potentials of one side: -sum over a line of weight times (values of the other side, cotangent of the plan).
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/row.wgsl"
// #include "shared/sinkhorn.wgsl"
// #include "shared/sinkhorn_weight.wgsl"
@group(0) @binding(4) var<storage, read> g: array<f32>;
@group(0) @binding(5) var<storage, read> values: array<f32>;
@group(0) @binding(6) var<storage, read_write> flow: array<f32>;
@group(0) @binding(7) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let r = row_of(workgroup_index(wid, wn), lid);
    let e = extents(m);
    let live = r.row < m.batches * e.x;
    let batch = r.row / e.x;
    let line = r.row % e.x;
    let n = select(0u, e.y, live);
    let by_slot = m.by_slot == 1u;
    // Values belong to the same iteration as the other side's potentials.
    let other_step = select(m.slot_step, m.token_step, by_slot);
    var total = 0.0;
    // In pieces: one long sum would lose digits.
    for (var start = r.lane; start < n; start += 64u * LANES) {
        var piece = 0.0;
        for (var k = start; k < min(n, start + 64u * LANES); k += LANES) {
            let slot = select(k, line, by_slot);
            let token = select(line, k, by_slot);
            var value = 0.0;
            if (m.with_values == 1u) {
                value = values[(batch * m.steps + other_step) * e.y + k];
            }
            if (m.with_cotangent == 1u) {
                value += g[(batch * m.slots + slot) * m.tokens + token];
            }
            piece += value * weight_at(m, batch, slot, token, m.slot_step, m.token_step, m.token_first == 1u);
        }
        total += piece;
    }
    total = row_sum(total, lid);
    if (!live || r.lane > 0u) {
        return;
    }
    let step = select(m.token_step, m.slot_step, by_slot);
    flow[(batch * m.steps + step) * e.x + line] = -total;
}
