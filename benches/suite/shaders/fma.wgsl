// The roofline of arithmetic: independent chains of fused multiply-adds, 2 * 4 * 8 * 512 operations an invocation.
@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4<f32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = id.y * groups.x * 256u + id.x;
    if i >= arrayLength(&target_) {
        return;
    }
    let m = source[i];
    let c = m * 0.5;
    var a0 = m;
    var a1 = m + 1.0;
    var a2 = m + 2.0;
    var a3 = m + 3.0;
    var a4 = m + 4.0;
    var a5 = m + 5.0;
    var a6 = m + 6.0;
    var a7 = m + 7.0;
    for (var step = 0u; step < 512u; step++) {
        a0 = fma(a0, m, c);
        a1 = fma(a1, m, c);
        a2 = fma(a2, m, c);
        a3 = fma(a3, m, c);
        a4 = fma(a4, m, c);
        a5 = fma(a5, m, c);
        a6 = fma(a6, m, c);
        a7 = fma(a7, m, c);
    }
    target_[i] = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7;
}
