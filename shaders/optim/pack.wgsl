// Puts up to seven strided tensors into their segments of a flat buffer, with zeros between.
// #include "shared/grid.wgsl"
struct Segment {
    start: u32,
    n: u32,
    offset: u32,
    rank: u32,
    slot: u32,
    dims: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
}
struct Meta {
    start: u32,
    end: u32,
    count: u32,
    segments: array<Segment, 8>,
}
@group(0) @binding(0) var<storage, read> a0: array<f32>;
@group(0) @binding(1) var<storage, read> a1: array<f32>;
@group(0) @binding(2) var<storage, read> a2: array<f32>;
@group(0) @binding(3) var<storage, read> a3: array<f32>;
@group(0) @binding(4) var<storage, read> a4: array<f32>;
@group(0) @binding(5) var<storage, read> a5: array<f32>;
@group(0) @binding(6) var<storage, read> a6: array<f32>;
@group(0) @binding(7) var<storage, read_write> flat: array<f32>;
@group(0) @binding(8) var<uniform> m: Meta;

fn load(slot: u32, i: u32) -> f32 {
    switch (slot) {
        case 0u: { return a0[i]; }
        case 1u: { return a1[i]; }
        case 2u: { return a2[i]; }
        case 3u: { return a3[i]; }
        case 4u: { return a4[i]; }
        case 5u: { return a5[i]; }
        default: { return a6[i]; }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = m.start + workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.end) {
        return;
    }
    var k = 0u;
    while (k + 1u < m.count && m.segments[k + 1u].start <= i) {
        k++;
    }
    var rest = i - m.segments[k].start;
    if (rest >= m.segments[k].n) {
        flat[i] = 0.0;
        return;
    }
    var at = m.segments[k].offset;
    for (var r = m.segments[k].rank; r > 0u; r--) {
        let d = r - 1u;
        let dim = m.segments[k].dims[d / 4u][d % 4u];
        at += (rest % dim) * m.segments[k].strides[d / 4u][d % 4u];
        rest = rest / dim;
    }
    flat[i] = load(m.segments[k].slot, at);
}
