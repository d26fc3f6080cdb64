// Words of a table (shared/table.wgsl) whose rows are full fours of them: one load instead of four.
@group(0) @binding(0) var<storage, read> table: array<vec4<u32>>;

// Words 4 quad .. 4 quad + 4 of a row.
fn four(t: Table, row: u32, quad: u32) -> vec4<u32> {
    return table[row * (t.words / 4u) + quad];
}
