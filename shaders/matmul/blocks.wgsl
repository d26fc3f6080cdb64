// c = a b of packed operands, 16 x 16 outputs an invocation.
// #include "shared/grid.wgsl"
// #include "shared/blocks.wgsl"
@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 8u + lid;
    let across = (m.cols + 15u) / 16u;
    let down = (m.rows + 15u) / 16u;
    let batch = i / (across * down);
    if (batch >= m.batches) {
        return;
    }
    let row = i / across % down;
    let col = i % across;
    var pa = (min(batch, m.a_batches - 1u) * down + row) * m.depth * 4u;
    var pb = (min(batch, m.b_batches - 1u) * across + col) * m.depth * 4u;
    var c00 = mat4x4<f32>();
    var c01 = mat4x4<f32>();
    var c02 = mat4x4<f32>();
    var c03 = mat4x4<f32>();
    var c10 = mat4x4<f32>();
    var c11 = mat4x4<f32>();
    var c12 = mat4x4<f32>();
    var c13 = mat4x4<f32>();
    var c20 = mat4x4<f32>();
    var c21 = mat4x4<f32>();
    var c22 = mat4x4<f32>();
    var c23 = mat4x4<f32>();
    var c30 = mat4x4<f32>();
    var c31 = mat4x4<f32>();
    var c32 = mat4x4<f32>();
    var c33 = mat4x4<f32>();
    for (var k = 0u; k < m.depth; k++) {
        let b0 = b[pb];
        let b1 = b[pb + 1u];
        let b2 = b[pb + 2u];
        let b3 = b[pb + 3u];
        let a0 = a[pa];
        c00 += outer(a0, b0);
        c01 += outer(a0, b1);
        c02 += outer(a0, b2);
        c03 += outer(a0, b3);
        let a1 = a[pa + 1u];
        c10 += outer(a1, b0);
        c11 += outer(a1, b1);
        c12 += outer(a1, b2);
        c13 += outer(a1, b3);
        let a2 = a[pa + 2u];
        c20 += outer(a2, b0);
        c21 += outer(a2, b1);
        c22 += outer(a2, b2);
        c23 += outer(a2, b3);
        let a3 = a[pa + 3u];
        c30 += outer(a3, b0);
        c31 += outer(a3, b1);
        c32 += outer(a3, b2);
        c33 += outer(a3, b3);
        pa += 4u;
        pb += 4u;
    }
    let start = batch * m.rows * m.cols;
    let r = row * 16u;
    let s = col * 16u;
    store(start, r, s, c00);
    store(start, r, s + 4u, c01);
    store(start, r, s + 8u, c02);
    store(start, r, s + 12u, c03);
    store(start, r + 4u, s, c10);
    store(start, r + 4u, s + 4u, c11);
    store(start, r + 4u, s + 8u, c12);
    store(start, r + 4u, s + 12u, c13);
    store(start, r + 8u, s, c20);
    store(start, r + 8u, s + 4u, c21);
    store(start, r + 8u, s + 8u, c22);
    store(start, r + 8u, s + 12u, c23);
    store(start, r + 12u, s, c30);
    store(start, r + 12u, s + 4u, c31);
    store(start, r + 12u, s + 8u, c32);
    store(start, r + 12u, s + 12u, c33);
}
