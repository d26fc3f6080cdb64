// Weighted sums of the rows of one piece of a table: QUADS times four words of an output row an invocation. The first piece
// also writes the rows of which it has no part; the pieces after it add theirs.
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
    let chunks = (m.table.words + 3u) / 4u / QUADS;
    let start = i % chunks * QUADS;
    let sum = i / chunks;
    let end = (sum + 1u) * m.k;
    // QUADS parts() of them.
    var total = array<vec4<f32>, 8>();
    // Four hits at a time, so that loads wait for memory together.
    for (var j = sum * m.k; j < end; j += 4u) {
        let hit = vec4<u32>(j, j + 1u, j + 2u, j + 3u);
        let at = min(hit, vec4<u32>(end - 1u));
        let index = vec4<u32>(indices[at.x], indices[at.y], indices[at.z], indices[at.w]);
        // Wraps for a row before this piece.
        let row = index - m.table.first;
        let found = (hit < vec4<u32>(end)) & (row < vec4<u32>(m.table.rows));
        let rows = select(vec4<u32>(), row, found);
        var weight = vec4<f32>(weights[at.x], weights[at.y], weights[at.z], weights[at.w]);
        if (FORMAT == 2u) {
            let known = select(vec4<u32>(), index, found);
            weight *= vec4<f32>(scales[known.x], scales[known.y], scales[known.z], scales[known.w]);
        }
        for (var q = 0u; q < QUADS; q++) {
            let a = four(m.table, rows.x, start + q);
            let b = four(m.table, rows.y, start + q);
            let c = four(m.table, rows.z, start + q);
            let d = four(m.table, rows.w, start + q);
            for (var p = 0u; p < parts(); p++) {
                var t = total[q * parts() + p];
                t += select(vec4<f32>(), weight.x * columns(a, p), found.x);
                t += select(vec4<f32>(), weight.y * columns(b, p), found.y);
                t += select(vec4<f32>(), weight.z * columns(c, p), found.z);
                t += select(vec4<f32>(), weight.w * columns(d, p), found.w);
                total[q * parts() + p] = t;
            }
        }
    }
    for (var part = 0u; part < QUADS * parts(); part++) {
        let value = total[part];
        let col = 4u * (start * parts() + part);
        let at = sum * m.table.width + col;
        for (var c = 0u; c < 4u && col + c < m.table.width; c++) {
            if (m.table.first > 0u) {
                output[at + c] += value[c];
            } else {
                output[at + c] = value[c];
            }
        }
    }
}
