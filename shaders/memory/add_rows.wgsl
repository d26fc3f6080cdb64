// Adds values to the rows of a table that they name, in place; no row is named twice. An element of a row an invocation.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    rows: u32,
    width: u32,
}
@group(0) @binding(0) var<storage, read> indices: array<u32>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> table: array<f32>;
@group(0) @binding(3) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.n * m.width) {
        return;
    }
    let row = indices[i / m.width];
    if (row < m.rows) {
        let place = row * m.width + i % m.width;
        table[place] = table[place] + values[i];
    }
}
