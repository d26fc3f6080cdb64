// Values to places of their own; a place outside the table is dropped.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    size: u32,
}
@group(0) @binding(0) var<storage, read> values: array<u32>;
@group(0) @binding(1) var<storage, read> places: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<u32>;
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
    let place = places[i];
    if (place < m.size) {
        output[place] = values[i];
    }
}
