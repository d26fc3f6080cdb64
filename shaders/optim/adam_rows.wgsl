// One step of Adam or AdamW on the rows that united hits name, in place; an element of a hit an invocation.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    rows: u32,
    width: u32,
    decoupled: u32,
    weight_decay: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    eps: f32,
}
@group(0) @binding(0) var<storage, read> indices: array<u32>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read> ok: array<u32>;
// Of each hit: learning rate, the same with the first moment's correction, correction of the second, clipping.
@group(0) @binding(3) var<storage, read> factors: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> param: array<f32>;
@group(0) @binding(5) var<storage, read_write> first: array<f32>;
@group(0) @binding(6) var<storage, read_write> second: array<f32>;
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
    let f = factors[hit];
    var p = param[i];
    var g = values[item] * f.w;
    if (m.decoupled == 1u) {
        p *= 1.0 - f.x * m.weight_decay;
    } else {
        g += m.weight_decay * p;
    }
    let a = m.beta1 * first[i] + m.one_minus_beta1 * g;
    let b = m.beta2 * second[i] + m.one_minus_beta2 * g * g;
    first[i] = a;
    second[i] = b;
    param[i] = p - f.y * a / (sqrt(b) / f.z + m.eps);
}
