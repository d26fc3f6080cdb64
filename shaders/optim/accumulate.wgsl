// total = (first ? 0 : total) + scale * value, in place.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    scale: f32,
}
@group(0) @binding(0) var<storage, read> value: array<f32>;
@group(0) @binding(1) var<storage, read> first: array<u32>;
@group(0) @binding(2) var<storage, read_write> total: array<f32>;
@group(0) @binding(3) var<uniform> m: Meta;

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
    let added = m.scale * value[i];
    // A branch, not a product with 0: what is left from the last round may be NaN.
    if (first[0] != 0u) {
        total[i] = added;
    } else {
        total[i] += added;
    }
}
