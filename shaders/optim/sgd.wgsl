// One step of gradient descent on a flat buffer, in place; four elements an invocation.
// #include "shared/grid.wgsl"
// #include "shared/optim.wgsl"
struct Meta {
    quads: u32,
    max_norm: f32,
    lr_factor: f32,
    weight_decay: f32,
}
@group(0) @binding(0) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> lr: array<f32>;
@group(0) @binding(2) var<storage, read> norm_sq: array<f32>;
@group(0) @binding(3) var<storage, read> ok: array<u32>;
@group(0) @binding(4) var<storage, read_write> param: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.quads || ok[0] == 0u) {
        return;
    }
    let p = param[i];
    let g = grad[i] * clip_factor(norm_sq[0], m.max_norm) + m.weight_decay * p;
    param[i] = p - lr[0] * m.lr_factor * g;
}
