// cache[outer, position + r, :] = rows[outer, r, :], where that row exists. Elements are moved as bits: any 32-bit type.
// #include "shared/grid.wgsl"
// #include "shared/rows.wgsl"
@group(0) @binding(0) var<storage, read> rows: array<u32>;
@group(0) @binding(1) var<storage, read> position: array<u32>;
@group(0) @binding(2) var<storage, read> gate: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache: array<u32>;
@group(0) @binding(4) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.outer * m.n * m.width || (m.gated == 1u && gate[0] == 0u)) {
        return;
    }
    let at = place(i);
    let start = position[at.entry];
    if (start < m.capacity && at.row < m.capacity - start) {
        cache[(at.outer * m.capacity + start + at.row) * m.width + at.column] = rows[i];
    }
}
