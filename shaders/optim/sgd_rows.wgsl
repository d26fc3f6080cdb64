// One step of gradient descent on the rows that sorted hits name, in place; an element of a hit an invocation, of which
// those of the first hit of a run add the run up.
// #include "shared/grid.wgsl"
// #include "shared/value.wgsl"
// #include "shared/runs.wgsl"
// #include "shared/run_sum.wgsl"
// #include "shared/row_update.wgsl"
// With momentum; otherwise there is no velocity.
override HEAVY: bool = true;
struct Meta {
    runs: Runs,
    nesterov: u32,
    weight_decay: f32,
    momentum: f32,
}
@group(0) @binding(4) var<storage, read> updates: array<RowUpdate>;
@group(0) @binding(5) var<storage, read_write> param: array<f32>;
@group(0) @binding(6) var<storage, read_write> velocity: array<f32>;
@group(0) @binding(7) var<uniform> m: Meta;

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
    let p = param[i];
    let g = run_sum(m.runs, hit, u.end, col) * u.clip + m.weight_decay * p;
    var direction = g;
    if (HEAVY) {
        let v = m.momentum * velocity[i] + g;
        velocity[i] = v;
        direction = select(v, g + m.momentum * v, m.nesterov == 1u);
    }
    param[i] = p - u.rate * direction;
}
