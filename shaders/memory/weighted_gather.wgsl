// Weighted sums of the rows of one piece of a table: four columns of an output row an invocation. The first piece also
// writes the rows of which it has no part; the pieces after it add theirs.
// #include "shared/grid.wgsl"
// #include "shared/table.wgsl"
struct Meta {
    table: Table,
    n: u32,
    k: u32,
}
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
    let quads = (m.table.width + 3u) / 4u;
    let col = i % quads * 4u;
    let hits = i / quads * m.k;
    var total = vec4<f32>();
    for (var j = hits; j < hits + m.k; j++) {
        // Wraps for a row before this piece.
        let row = indices[j] - m.table.first;
        if (row < m.table.rows) {
            var weight = weights[j];
            if (FORMAT == 2u) {
                weight *= scales[indices[j]];
            }
            total += weight * columns(m.table, row, col);
        }
    }
    let at = i / quads * m.table.width + col;
    for (var c = 0u; c < 4u && col + c < m.table.width; c++) {
        if (m.table.first > 0u) {
            output[at + c] += total[c];
        } else {
            output[at + c] = total[c];
        }
    }
}
