// Products of vectors with rows of a table whose rows have any number of words.
// #include "shared/grid.wgsl"
// #include "shared/table.wgsl"
// #include "shared/words.wgsl"
// #include "shared/row_products.wgsl"
@group(0) @binding(3) var<storage, read> vectors: array<f32>;

// Entries col .. col + 4 of a vector, 0 behind its end.
fn entries(vector: u32, col: u32) -> vec4<f32> {
    let at = vector + col;
    if (col + 4u <= m.table.width) {
        return vec4<f32>(vectors[at], vectors[at + 1u], vectors[at + 2u], vectors[at + 3u]);
    }
    var v = vec4<f32>();
    for (var i = 0u; col + i < m.table.width; i++) {
        v[i] = vectors[at + i];
    }
    return v;
}
