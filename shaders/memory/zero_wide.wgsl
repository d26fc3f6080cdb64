// Fills full fours with zeros.
// #include "shared/grid.wgsl"
struct Meta {
    // In fours.
    n: u32,
}
@group(0) @binding(0) var<storage, read_write> x: array<vec4<u32>>;
@group(0) @binding(1) var<uniform> m: Meta;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 256u + lid;
    if (i < m.n) {
        x[i] = vec4<u32>();
    }
}
