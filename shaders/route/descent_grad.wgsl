// ds_j = u_j - sum_t G_t exp((min(s_j, -a_{t-1}) + a_t) / e_t) / k over the t at which j is free: s_j <= -a_{t-1}.
// While epsilon does not change, a_t only rises or only falls: all such t take V_t exp(..) / k, t the free one with the lowest level.
// #include "shared/descent.wgsl"
// #include "shared/grid.wgsl"
// #include "shared/scores.wgsl"
@group(0) @binding(2) var<storage, read> counts: array<f32>;
@group(0) @binding(3) var<storage, read> schedule: array<f32>;
@group(0) @binding(4) var<storage, read> trace: array<f32>;
@group(0) @binding(5) var<storage, read> weights: array<f32>;
@group(0) @binding(6) var<storage, read> u: array<f32>;
@group(0) @binding(7) var<storage, read_write> ds: array<f32>;
@group(0) @binding(8) var<uniform> m: Meta;

// What iteration t takes from the gradient of a score.
fn taken(row: u32, at: u32, t: u32, s: f32, log_k: f32) -> f32 {
    let level = level_of(at, t);
    let x = (min(s, level) + trace[at + t]) / schedule[t] - log_k;
    return select(0.0, weights[row * m.iterations + t] * exp(clamp(x, FLOOR, 0.0)), s <= level);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.rows * m.n) {
        return;
    }
    if (!takes_part(i)) {
        ds[i] = u[i];
        return;
    }
    let row = i / m.n;
    let log_k = log(max(counts[row * m.counts], 1e-20));
    let at = 2u * row * m.iterations;
    let s = score(i);
    var d = u[i];
    // The first step of the newer start does not look at the scores.
    for (var t = m.tail; t > 1u - m.relu; t--) {
        d -= taken(row, at, t - 1u, s, log_k);
    }
    // How many of the last iterations let the score through: their levels fall.
    var free = 0u;
    var end = m.iterations - min(m.tail, m.iterations);
    while (free < end) {
        let mid = (free + end) / 2u;
        if (s <= level_of(at, tail_of(at, mid))) {
            free = mid + 1u;
        } else {
            end = mid;
        }
    }
    if (free > 0u) {
        d -= taken(row, at, tail_of(at, free - 1u), s, log_k);
    }
    ds[i] = d;
}
