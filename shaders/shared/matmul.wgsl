// Operands of a batched product [rows, depth] x [depth, cols] with any strides.
struct Meta {
    rows: u32,
    cols: u32,
    depth: u32,
    batches: u32,
    a_offset: u32,
    a_row: u32,
    a_col: u32,
    b_offset: u32,
    b_row: u32,
    b_col: u32,
    dims: vec4<u32>,
    a_batch: vec4<u32>,
    b_batch: vec4<u32>,
}
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@group(0) @binding(3) var<uniform> m: Meta;

// First elements of the two operands of a batch entry.
fn batch_offsets(batch: u32) -> vec2<u32> {
    var rest = batch;
    var at = vec2<u32>(m.a_offset, m.b_offset);
    for (var k = 4u; k > 0u; k--) {
        let x = rest % m.dims[k - 1u];
        rest = rest / m.dims[k - 1u];
        at += x * vec2<u32>(m.a_batch[k - 1u], m.b_batch[k - 1u]);
    }
    return at;
}
