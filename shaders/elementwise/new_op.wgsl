// y = x * x, an element an invocation. Replace it.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = 64u * workgroup_index(wid, wn) + lid;
    if (i < m.n) {
        y[i] = x[i] * x[i];
    }
}
