// Words of a table (shared/table.wgsl) whose rows have any number of them.
@group(0) @binding(0) var<storage, read> table: array<u32>;

// Words 4 quad .. 4 quad + 4 of a row, 0 behind its end.
fn four(t: Table, row: u32, quad: u32) -> vec4<u32> {
    let at = row * t.words + 4u * quad;
    if (4u * quad + 4u <= t.words) {
        return vec4<u32>(table[at], table[at + 1u], table[at + 2u], table[at + 3u]);
    }
    var words = vec4<u32>();
    for (var i = 0u; 4u * quad + i < t.words; i++) {
        words[i] = table[at + i];
    }
    return words;
}
