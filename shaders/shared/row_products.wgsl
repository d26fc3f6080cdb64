// Products of vectors with rows of one piece of a table: LANES invocations have HITS products with the same vector, each with
// every LANES-th four words. The first piece also writes zeros for rows that are not its own; the pieces after it write
// theirs over them.
struct Meta {
    table: Table,
    n: u32,
    k: u32,
}
override LANES: u32 = 8u;
override HITS: u32 = 1u;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;
var<workgroup> partials: array<vec4<f32>, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let first = (workgroup_index(wid, wn) * (64u / LANES) + lid / LANES) * HITS;
    let inside = first < m.n;
    var rows = vec4<u32>();
    var found = vec4<bool>();
    for (var h = 0u; h < HITS && inside; h++) {
        // Wraps for a row before this piece.
        let row = indices[first + h] - m.table.first;
        found[h] = row < m.table.rows;
        rows[h] = select(0u, row, found[h]);
    }
    var totals = array<vec4<f32>, 4>();
    if (any(found)) {
        let vector = first / m.k * m.table.width;
        for (var q = lid % LANES; q < (m.table.words + 3u) / 4u; q += LANES) {
            for (var h = 0u; h < HITS; h++) {
                let words = four(m.table, rows[h], q);
                for (var p = 0u; p < parts(); p++) {
                    let col = 4u * (q * parts() + p);
                    let known = vec4<u32>(col, col + 1u, col + 2u, col + 3u) < vec4<u32>(m.table.width);
                    totals[h] += select(vec4<f32>(), columns(words, p) * entries(vector, col), known);
                }
            }
        }
    }
    var sums = vec4<f32>();
    for (var h = 0u; h < HITS; h++) {
        let t = totals[h];
        sums[h] = select(0.0, t.x + t.y + t.z + t.w, found[h]);
        if (FORMAT == 2u && found[h]) {
            sums[h] *= scales[rows[h] + m.table.first];
        }
    }
    if (LANES > 1u) {
        partials[lid] = sums;
        workgroupBarrier();
        sums = vec4<f32>();
        for (var lane = 0u; lane < LANES; lane++) {
            sums += partials[(lid / LANES * LANES + lane) % 64u];
        }
    }
    for (var h = 0u; h < HITS && inside && lid % LANES == 0u; h++) {
        if (found[h] || m.table.first == 0u) {
            output[first + h] = sums[h];
        }
    }
}
