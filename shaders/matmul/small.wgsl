// c = a b, one output an invocation: for products too small to fill tiles.
// #include "shared/grid.wgsl"
// #include "shared/matmul.wgsl"

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.batches * m.rows * m.cols) {
        return;
    }
    let col = i % m.cols;
    let row = (i / m.cols) % m.rows;
    let at = batch_offsets(i / (m.cols * m.rows));
    var pa = at.x + row * m.a_row;
    var pb = at.y + col * m.b_col;
    var total = 0.0;
    for (var k = 0u; k < m.depth; k++) {
        total += a[pa] * b[pb];
        pa += m.a_col;
        pb += m.b_row;
    }
    c[i] = total;
}
