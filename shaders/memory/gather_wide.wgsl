// Rows of one piece of a table (memory/gather.wgsl) whose rows are full fours of elements: QUADS fours an invocation.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    first: u32,
    rows: u32,
    // In fours.
    width: u32,
}
override QUADS: u32 = 1u;
@group(0) @binding(0) var<storage, read> table: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;
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
    let chunks = m.width / QUADS;
    let start = i % chunks * QUADS;
    let hit = i / chunks;
    // Wraps for a row before this piece.
    let row = indices[hit] - m.first;
    let to = hit * m.width + start;
    if (row < m.rows) {
        let source = row * m.width + start;
        for (var q = 0u; q < QUADS; q++) {
            output[to + q] = table[source + q];
        }
    } else if (m.first == 0u) {
        for (var q = 0u; q < QUADS; q++) {
            output[to + q] = vec4<u32>();
        }
    }
}
