// Products of vectors with rows of one piece of a table: LANES invocations a product, each with every LANES-th four columns.
// The first piece also writes zeros for rows that are not its own; the pieces after it write theirs over them.
// #include "shared/grid.wgsl"
// #include "shared/table.wgsl"
struct Meta {
    table: Table,
    n: u32,
    k: u32,
}
override LANES: u32 = 8u;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read> vectors: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;
var<workgroup> partials: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let hit = workgroup_index(wid, wn) * (64u / LANES) + lid / LANES;
    let inside = hit < m.n;
    var row = 0u;
    if (inside) {
        // Wraps for a row before this piece.
        row = indices[hit] - m.table.first;
    }
    let found = inside && row < m.table.rows;
    var total = 0.0;
    if (found) {
        let vector = hit / m.k * m.table.width;
        for (var col = lid % LANES * 4u; col < m.table.width; col += 4u * LANES) {
            let v = columns(m.table, row, col);
            for (var c = 0u; c < 4u && col + c < m.table.width; c++) {
                total += v[c] * vectors[vector + col + c];
            }
        }
    }
    if (FORMAT == 2u && found) {
        total *= scales[row + m.table.first];
    }
    if (LANES > 1u) {
        partials[lid] = total;
        workgroupBarrier();
        total = 0.0;
        for (var lane = 0u; lane < LANES; lane++) {
            total += partials[(lid / LANES * LANES + lane) % 64u];
        }
    }
    if (inside && lid % LANES == 0u && (found || m.table.first == 0u)) {
        output[hit] = total;
    }
}
