// One step of gradient descent on the rows that united hits name, in place; an element of a hit an invocation.
// #include "shared/grid.wgsl"
// #include "shared/optim.wgsl"
// With momentum; otherwise there is no velocity.
override HEAVY: bool = true;
struct Meta {
    n: u32,
    rows: u32,
    width: u32,
    nesterov: u32,
    max_norm: f32,
    lr_factor: f32,
    weight_decay: f32,
    momentum: f32,
}
@group(0) @binding(0) var<storage, read> indices: array<u32>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read> lr: array<f32>;
@group(0) @binding(3) var<storage, read> norm_sq: array<f32>;
@group(0) @binding(4) var<storage, read> ok: array<u32>;
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
    let hit = item / m.width;
    if (hit >= m.n || ok[0] == 0u) {
        return;
    }
    let row = indices[hit];
    if (row >= m.rows) {
        return;
    }
    let i = row * m.width + item % m.width;
    let p = param[i];
    let g = values[item] * clip_factor(norm_sq[0], m.max_norm) + m.weight_decay * p;
    var direction = g;
    if (HEAVY) {
        let v = m.momentum * velocity[i] + g;
        velocity[i] = v;
        direction = select(v, g + m.momentum * v, m.nesterov == 1u);
    }
    param[i] = p - lr[0] * m.lr_factor * direction;
}
