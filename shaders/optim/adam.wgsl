// One step of Adam or AdamW on a flat buffer, in place; four elements an invocation.
// #include "shared/grid.wgsl"
// #include "shared/optim.wgsl"
struct Meta {
    quads: u32,
    decoupled: u32,
    max_norm: f32,
    lr_factor: f32,
    weight_decay: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    ln_beta1: f32,
    ln_beta2: f32,
    eps: f32,
}
@group(0) @binding(0) var<storage, read> grad: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> lr: array<f32>;
@group(0) @binding(2) var<storage, read> norm_sq: array<f32>;
@group(0) @binding(3) var<storage, read> ok: array<u32>;
@group(0) @binding(4) var<storage, read> progress: array<u32>;
@group(0) @binding(5) var<storage, read_write> param: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> first: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> second: array<vec4<f32>>;
@group(0) @binding(8) var<uniform> m: Meta;

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
    let t = f32(progress[0] + 1u);
    let correction1 = one_minus_exp(t * m.ln_beta1);
    let correction2 = sqrt(one_minus_exp(t * m.ln_beta2));
    let rate = lr[0] * m.lr_factor;
    var p = param[i];
    var g = grad[i] * clip_factor(norm_sq[0], m.max_norm);
    if (m.decoupled == 1u) {
        p *= 1.0 - rate * m.weight_decay;
    } else {
        g += m.weight_decay * p;
    }
    let a = m.beta1 * first[i] + m.one_minus_beta1 * g;
    let b = m.beta2 * second[i] + m.one_minus_beta2 * g * g;
    first[i] = a;
    second[i] = b;
    param[i] = p - (rate / correction1) * a / (sqrt(b) / correction2 + m.eps);
}
