// c = a b of packed operands, 16 x 8 outputs an invocation. The eight of a subgroup have the same rows: each loads two values
// of the left operand and hands them round. Natively only.
// #include "shared/grid.wgsl"
// #include "shared/blocks.wgsl"
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;

// Values of the lanes 0 to 3.
fn low(x: f32) -> vec4<f32> {
    return vec4<f32>(subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u), subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u));
}

// Values of the lanes 4 to 7.
fn high(x: f32) -> vec4<f32> {
    return vec4<f32>(subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u), subgroupBroadcast(x, 6u), subgroupBroadcast(x, 7u));
}

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let i = workgroup_index(wid, wn);
    let panels = (m.cols + 7u) / 8u;
    let across = (panels + 7u) / 8u;
    let down = (m.rows + 15u) / 16u;
    let batch = i / (across * down);
    // Uniform: all eight go on, also those behind the last column.
    if (batch >= m.batches) {
        return;
    }
    let row = i / across % down;
    let col = i % across * 8u + lane;
    var pa = (min(batch, m.a_batches - 1u) * down + row) * m.depth * 16u + lane;
    var pb = (min(batch, m.b_batches - 1u) * panels + min(col, panels - 1u)) * m.depth * 2u;
    var c00 = mat4x4<f32>();
    var c01 = mat4x4<f32>();
    var c10 = mat4x4<f32>();
    var c11 = mat4x4<f32>();
    var c20 = mat4x4<f32>();
    var c21 = mat4x4<f32>();
    var c30 = mat4x4<f32>();
    var c31 = mat4x4<f32>();
    for (var k = 0u; k < m.depth; k++) {
        let b0 = b[pb];
        let b1 = b[pb + 1u];
        let x = a[pa];
        let y = a[pa + 8u];
        let a0 = low(x);
        c00 += outer(a0, b0);
        c01 += outer(a0, b1);
        let a1 = high(x);
        c10 += outer(a1, b0);
        c11 += outer(a1, b1);
        let a2 = low(y);
        c20 += outer(a2, b0);
        c21 += outer(a2, b1);
        let a3 = high(y);
        c30 += outer(a3, b0);
        c31 += outer(a3, b1);
        pa += 16u;
        pb += 2u;
    }
    if (col >= panels) {
        return;
    }
    let start = batch * m.rows * m.cols;
    let r = row * 16u;
    let s = col * 8u;
    store(start, r, s, c00);
    store(start, r, s + 4u, c01);
    store(start, r + 4u, s, c10);
    store(start, r + 4u, s + 4u, c11);
    store(start, r + 8u, s, c20);
    store(start, r + 8u, s + 4u, c21);
    store(start, r + 12u, s, c30);
    store(start, r + 12u, s + 4u, c31);
}
