// table[places[r], :] = rows[r, :] for the rows that this piece of the table has, as floats or packed in half precision.
// #include "shared/grid.wgsl"
// #include "shared/half.wgsl"
override HALF: u32 = 0u;
struct Meta {
    n: u32,
    width: u32,
    words: u32,
    first: u32,
    rows: u32,
    gated: u32,
}
@group(0) @binding(0) var<storage, read> rows: array<u32>;
@group(0) @binding(1) var<storage, read> places: array<u32>;
@group(0) @binding(2) var<storage, read> gate: array<u32>;
@group(0) @binding(3) var<storage, read_write> table: array<u32>;
@group(0) @binding(4) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.n * m.words || (m.gated == 1u && gate[0] == 0u)) {
        return;
    }
    let r = i / m.words;
    let c = i % m.words;
    // Wraps for a row before this piece.
    let row = places[r] - m.first;
    if (row >= m.rows) {
        return;
    }
    if (HALF == 0u) {
        table[row * m.words + c] = rows[i];
        return;
    }
    let column = 2u * c;
    var word = half_bits(rows[r * m.width + column]);
    if (column + 1u < m.width) {
        word |= half_bits(rows[r * m.width + column + 1u]) << 16u;
    }
    table[row * m.words + c] = word;
}
