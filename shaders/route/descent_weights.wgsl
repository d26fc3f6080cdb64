// Backward recurrence of a row: weights G_t from G_T = sum u, G_{t-1} = G_t p_t, and dk = sum_t G_t e_t / k. In the
// iterations of the last epsilon they become V_t = G_t + V_r exp((a_r - a_t) / e), r the neighbour with the next higher level.
// #include "shared/descent.wgsl"
// #include "shared/grid.wgsl"
@group(0) @binding(0) var<storage, read> counts: array<f32>;
@group(0) @binding(1) var<storage, read> schedule: array<f32>;
@group(0) @binding(2) var<storage, read> trace: array<f32>;
@group(0) @binding(3) var<storage, read> totals: array<f32>;
@group(0) @binding(4) var<storage, read_write> weights: array<f32>;
@group(0) @binding(5) var<storage, read_write> dk: array<f32>;
@group(0) @binding(6) var<uniform> m: Meta;

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
    let k = counts[row * m.counts];
    let kc = max(k, 1e-20);
    let at = 2u * row * m.iterations;
    var g = totals[row];
    var sum = 0.0;
    for (var t = m.iterations; t > 0u; t--) {
        let i = t - 1u;
        let e = schedule[i];
        weights[row * m.iterations + i] = g;
        sum += g * e;
        if (i > 0u) {
            let drop = (trace[at + i] - trace[at + i - 1u]) / e - log(kc);
            let clipped = trace[at + m.iterations + i];
            g *= min(clipped * exp(clamp(drop, -104.0, 0.0)), 1.0);
        }
    }
    for (var j = 1u; m.tail + j < m.iterations; j++) {
        let t = tail_of(at, j);
        let before = tail_of(at, j - 1u);
        let drop = (trace[at + before] - trace[at + t]) / schedule[t];
        let carried = weights[row * m.iterations + before] * exp(clamp(drop, -104.0, 0.0));
        weights[row * m.iterations + t] += carried;
    }
    dk[row] = select(0.0, sum / kc, k > 1e-20);
}
