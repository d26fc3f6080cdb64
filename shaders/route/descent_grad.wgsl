// ds_j = u_j - sum_t G_t exp((min(s_j, -a_{t-1}) + a_t) / e_t) / k over the t at which j is free: s_j <= -a_{t-1}.
// #include "shared/grid.wgsl"
// #include "shared/scores.wgsl"
struct Meta {
    rows: u32,
    n: u32,
    iterations: u32,
    relu: u32,
    masked: u32,
    counts: u32,
}
@group(0) @binding(2) var<storage, read> counts: array<f32>;
@group(0) @binding(3) var<storage, read> schedule: array<f32>;
@group(0) @binding(4) var<storage, read> trace: array<f32>;
@group(0) @binding(5) var<storage, read> weights: array<f32>;
@group(0) @binding(6) var<storage, read> u: array<f32>;
@group(0) @binding(7) var<storage, read_write> ds: array<f32>;
@group(0) @binding(8) var<uniform> m: Meta;

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
    for (var t = m.iterations; t > 1u - m.relu; t--) {
        let k = t - 1u;
        var before = 0.0;
        if (k > 0u) {
            before = -trace[at + k - 1u];
        }
        if (s <= before) {
            let x = (min(s, before) + trace[at + k]) / schedule[k] - log_k;
            d -= weights[row * m.iterations + k] * exp(clamp(x, FLOOR, 0.0));
        }
    }
    ds[i] = d;
}
