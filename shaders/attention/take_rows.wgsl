// rows[outer, r, :] = x[outer, position + r, :], 0 where that row does not exist. Elements are moved as bits.
// #include "shared/grid.wgsl"
// #include "shared/rows.wgsl"
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> position: array<u32>;
@group(0) @binding(2) var<storage, read_write> rows: array<u32>;
@group(0) @binding(3) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.outer * m.n * m.width) {
        return;
    }
    let at = place(i);
    let start = position[at.entry];
    var value = 0u;
    if (start < m.capacity && at.row < m.capacity - start) {
        value = x[(at.outer * m.capacity + start + at.row) * m.width + at.column];
    }
    rows[i] = value;
}
