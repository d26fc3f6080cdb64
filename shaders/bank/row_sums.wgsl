// sums[chunk, route, :] = sum of weights[row, route] * row over the rows of a chunk that this piece of a table has, added
// to what the pieces before it left. A word of a row an invocation.
// #include "shared/grid.wgsl"
override HALF: u32 = 0u;
struct Meta {
    first: u32,
    rows: u32,
    width: u32,
    words: u32,
    // Rows of a sample, of a chunk, and chunks of a sample.
    n: u32,
    len: u32,
    chunks: u32,
    routes: u32,
    // Workgroups of a chunk.
    groups: u32,
}
@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
@group(0) @binding(3) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let chunk = group / m.groups;
    let c = group % m.groups * 64u + lid;
    let sample = chunk / m.chunks;
    let own = chunk % m.chunks * m.len;
    let begin = sample * m.n + own;
    let end = min(sample * m.n + min(own + m.len, m.n), m.first + m.rows);
    let from_row = max(begin, m.first);
    if (c >= m.words || from_row >= end) {
        return;
    }
    for (var route = 0u; route < m.routes; route++) {
        var sum = vec2<f32>();
        for (var row = from_row; row < end; row++) {
            let word = table[(row - m.first) * m.words + c];
            let weight = weights[row * m.routes + route];
            if (HALF == 0u) {
                sum.x += weight * bitcast<f32>(word);
            } else {
                sum += weight * unpack2x16float(word);
            }
        }
        let at = (chunk * m.routes + route) * m.width;
        let column = select(c, 2u * c, HALF == 1u);
        let fresh = begin >= m.first;
        if (!fresh) {
            sum.x += sums[at + column];
        }
        sums[at + column] = sum.x;
        if (HALF == 1u && column + 1u < m.width) {
            if (!fresh) {
                sum.y += sums[at + column + 1u];
            }
            sums[at + column + 1u] = sum.y;
        }
    }
}
