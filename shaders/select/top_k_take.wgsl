// The first k entries of rows that were sorted whole.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/top_k.wgsl"
@group(0) @binding(1) var<storage, read> ranks: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> values: array<u32>;
@group(0) @binding(4) var<storage, read_write> places: array<u32>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let item = workgroup_index(wid, wn) * 64u + lid;
    if (item >= m.rows * m.k) {
        return;
    }
    let first = item / m.k * m.n;
    let at = first + item % m.k;
    let index = indices[at];
    places[item] = index;
    values[item] = value_at(first + index, ranks[at]);
}
