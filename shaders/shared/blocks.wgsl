// A product of packed operands (matmul/pack.wgsl).
struct Meta {
    rows: u32,
    cols: u32,
    depth: u32,
    batches: u32,
    // Batch entries that were packed: all, or the one that serves all.
    a_batches: u32,
    b_batches: u32,
    c_row: u32,
    c_col: u32,
}
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<uniform> m: Meta;

// Row i of the result is in its column i.
fn outer(x: vec4<f32>, y: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(x.x * y, x.y * y, x.z * y, x.w * y);
}

fn store(start: u32, row: u32, col: u32, values: mat4x4<f32>) {
    var block = values;
    for (var i = 0u; i < 4u && row + i < m.rows; i++) {
        for (var j = 0u; j < 4u && col + j < m.cols; j++) {
            c[start + (row + i) * m.c_row + (col + j) * m.c_col] = block[i][j];
        }
    }
}
