// Rows of one piece of a table. Elements are moved as bits: any 32-bit type. The first piece also writes zeros for the
// rows that are not its own; the pieces after it write theirs over them.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    first: u32,
    rows: u32,
    width: u32,
}
@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
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
    // Wraps for a row before this piece.
    let row = indices[i / m.width] - m.first;
    if (row < m.rows) {
        output[i] = table[row * m.width + i % m.width];
    } else if (m.first == 0u) {
        output[i] = 0u;
    }
}
