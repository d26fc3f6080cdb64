// One step of Adam or AdamW on the rows that sorted hits name, in place; an element of a hit an invocation, of which those
// of the first hit of a run add the run up.
// #include "shared/grid.wgsl"
// #include "shared/value.wgsl"
// #include "shared/runs.wgsl"
// #include "shared/run_sum.wgsl"
// #include "shared/row_update.wgsl"
struct Meta {
    runs: Runs,
    decoupled: u32,
    weight_decay: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    eps: f32,
}
@group(0) @binding(4) var<storage, read> updates: array<RowUpdate>;
@group(0) @binding(5) var<storage, read_write> param: array<f32>;
@group(0) @binding(6) var<storage, read_write> first: array<f32>;
@group(0) @binding(7) var<storage, read_write> second: array<f32>;
@group(0) @binding(8) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let item = workgroup_index(wid, wn) * 64u + lid;
    let hit = item / m.runs.width;
    if (hit >= m.runs.n) {
        return;
    }
    if (updates[hit].end == 0u) {
        return;
    }
    let u = updates[hit];
    let col = item % m.runs.width;
    let i = u.row * m.runs.width + col;
    var p = param[i];
    var g = run_sum(m.runs, hit, u.end, col) * u.clip;
    if (m.decoupled == 1u) {
        p *= 1.0 - u.rate * m.weight_decay;
    } else {
        g += m.weight_decay * p;
    }
    let a = m.beta1 * first[i] + m.one_minus_beta1 * g;
    let b = m.beta2 * second[i] + m.one_minus_beta2 * g * g;
    first[i] = a;
    second[i] = b;
    param[i] = p - u.pace * a / (sqrt(b) / u.correction + m.eps);
}
