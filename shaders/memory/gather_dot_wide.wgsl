// Products of vectors with rows of a table whose rows have full fours of words.
// #include "shared/grid.wgsl"
// #include "shared/table.wgsl"
// #include "shared/words_wide.wgsl"
// #include "shared/row_products.wgsl"
@group(0) @binding(3) var<storage, read> vectors: array<vec4<f32>>;

// Entries col .. col + 4 of a vector.
fn entries(vector: u32, col: u32) -> vec4<f32> {
    return vectors[(vector + col) / 4u];
}
