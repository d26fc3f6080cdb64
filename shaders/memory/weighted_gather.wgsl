// Weighted sums of the rows of one piece of a table: 4 QUADS columns of an output row an invocation. The first piece also
// writes the rows of which it has no part; the pieces after it add theirs.
// #include "shared/grid.wgsl"
// #include "shared/table.wgsl"
struct Meta {
    table: Table,
    n: u32,
    k: u32,
}
override QUADS: u32 = 1u;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;

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
    let chunks = (m.table.width + 4u * QUADS - 1u) / (4u * QUADS);
    let start = i % chunks * 4u * QUADS;
    let hits = i / chunks * m.k;
    var total = array<vec4<f32>, 4>();
    for (var j = hits; j < hits + m.k; j++) {
        // Wraps for a row before this piece.
        let row = indices[j] - m.table.first;
        if (row < m.table.rows) {
            var weight = weights[j];
            if (FORMAT == 2u) {
                weight *= scales[indices[j]];
            }
            for (var q = 0u; q < QUADS; q++) {
                if (start + 4u * q < m.table.width) {
                    total[q] += weight * columns(m.table, row, start + 4u * q);
                }
            }
        }
    }
    let end = min(m.table.width, start + 4u * QUADS);
    for (var col = start; col < end; col++) {
        let at = i / chunks * m.table.width + col;
        let value = total[(col - start) / 4u][(col - start) % 4u];
        if (m.table.first > 0u) {
            output[at] += value;
        } else {
            output[at] = value;
        }
    }
}
