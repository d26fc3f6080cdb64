// target[layout] = source[layout], or 0 when filling. Elements are moved as bits: any 32-bit type.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    rank: u32,
    source: u32,
    target_offset: u32,
    fill: u32,
    dims: array<vec4<u32>, 2>,
    source_strides: array<vec4<u32>, 2>,
    target_strides: array<vec4<u32>, 2>,
}
@group(0) @binding(0) var<storage, read> input: array<u32>;
@group(0) @binding(1) var<storage, read_write> output: array<u32>;
@group(0) @binding(2) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.n) {
        return;
    }
    var rest = i;
    var a = m.source;
    var b = m.target_offset;
    for (var k = m.rank; k > 0u; k--) {
        let d = k - 1u;
        let dim = m.dims[d / 4u][d % 4u];
        let x = rest % dim;
        rest = rest / dim;
        a += x * m.source_strides[d / 4u][d % 4u];
        b += x * m.target_strides[d / 4u][d % 4u];
    }
    if (m.fill == 1u) {
        output[b] = 0u;
    } else {
        output[b] = input[a];
    }
}
