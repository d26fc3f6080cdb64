// Potentials of all slots (logsumexp over tokens of the scores less the tokens' potentials) or of all tokens (over slots).
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/row.wgsl"
// #include "shared/sinkhorn.wgsl"
@group(0) @binding(2) var<storage, read> other: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> own: array<vec2<f32>>;
@group(0) @binding(4) var<uniform> m: Meta;

// Entry k of a line: its exponent, and 1 if it counts.
fn exponent(batch: u32, line: u32, k: u32) -> vec2<f32> {
    let slot = select(k, line, m.by_slot == 1u);
    let token = select(line, k, m.by_slot == 1u);
    if (!visible(m, batch, token)) {
        return vec2<f32>(LOWEST, 0.0);
    }
    let step = select(m.slot_step, m.token_step, m.by_slot == 1u);
    var potential = vec2<f32>();
    if (step != NONE) {
        potential = other[(batch * m.steps + step) * extents(m).y + k];
    }
    return vec2<f32>(less(score(m, batch, slot, token), potential), 1.0);
}

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
    var top = LOWEST;
    for (var k = r.lane; k < n; k += LANES) {
        top = max(top, exponent(batch, line, k).x);
    }
    top = row_max(top, lid);
    var total = 0.0;
    // In pieces: one long sum would lose digits.
    for (var start = r.lane; start < n; start += 64u * LANES) {
        var piece = 0.0;
        for (var k = start; k < min(n, start + 64u * LANES); k += LANES) {
            let x = exponent(batch, line, k);
            piece += x.y * exp(max(x.x - top, -104.0));
        }
        total += piece;
    }
    total = row_sum(total, lid);
    if (!live || r.lane > 0u) {
        return;
    }
    let step = select(m.token_step, m.slot_step, m.by_slot == 1u);
    let at = (batch * m.steps + step) * e.x + line;
    // A line of which nothing counts.
    own[at] = select(vec2<f32>(top, log(max(total, 1.0))), vec2<f32>(), total == 0.0);
}
