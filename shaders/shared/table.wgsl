// A piece of a table, four columns of a row at a time.
struct Table {
    // Row of the whole table that the piece starts with.
    first: u32,
    rows: u32,
    width: u32,
    // 32-bit words of a row.
    words: u32,
}
// 0: floats. 1: halves, two a word. 2: bytes that stand for -1 to 1, four a word; they are to be scaled.
override FORMAT: u32 = 0u;
@group(0) @binding(0) var<storage, read> table: array<u32>;

// Columns col .. col + 4 of a row, 0 behind its end.
fn columns(t: Table, row: u32, col: u32) -> vec4<f32> {
    if (FORMAT == 1u) {
        let at = row * t.words + col / 2u;
        var v = vec4<f32>(unpack2x16float(table[at]), 0.0, 0.0);
        if (col + 2u < t.width) {
            let last = unpack2x16float(table[at + 1u]);
            v = vec4<f32>(v.xy, last);
        }
        return v;
    }
    if (FORMAT == 2u) {
        return unpack4x8snorm(table[row * t.words + col / 4u]);
    }
    let at = row * t.words + col;
    if (col + 4u <= t.width) {
        return bitcast<vec4<f32>>(vec4<u32>(table[at], table[at + 1u], table[at + 2u], table[at + 3u]));
    }
    var v = vec4<f32>();
    for (var i = 0u; col + i < t.width; i++) {
        v[i] = bitcast<f32>(table[at + i]);
    }
    return v;
}
