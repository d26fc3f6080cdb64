// c = a b by tiles of 32 x 32: 8 x 8 invocations with 4 x 4 outputs each, 16 of the depth at a time in workgroup memory.
// #include "shared/grid.wgsl"
// #include "shared/matmul.wgsl"
const TILE: u32 = 32u;
const DEPTH: u32 = 16u;
var<workgroup> ta: array<f32, 512>;
var<workgroup> tb: array<f32, 512>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let across = (m.cols + TILE - 1u) / TILE;
    let down = (m.rows + TILE - 1u) / TILE;
    let col0 = (group % across) * TILE;
    let row0 = ((group / across) % down) * TILE;
    let batch = group / (across * down);
    let at = batch_offsets(min(batch, m.batches - 1u));
    let ty = lid / 8u;
    let tx = lid % 8u;
    var sums: array<vec4<f32>, 4>;
    for (var k0 = 0u; k0 < m.depth; k0 += DEPTH) {
        for (var e = lid; e < 512u; e += 64u) {
            // Neighbouring invocations read along the dense dimension, whichever that is.
            let ar = select(e % TILE, e / DEPTH, m.a_col == 1u);
            let ak = select(e / TILE, e % DEPTH, m.a_col == 1u);
            let bc = select(e / DEPTH, e % TILE, m.b_col == 1u);
            let bk = select(e % DEPTH, e / TILE, m.b_col == 1u);
            var va = 0.0;
            if (row0 + ar < m.rows && k0 + ak < m.depth) {
                va = a[at.x + (row0 + ar) * m.a_row + (k0 + ak) * m.a_col];
            }
            var vb = 0.0;
            if (col0 + bc < m.cols && k0 + bk < m.depth) {
                vb = b[at.y + (k0 + bk) * m.b_row + (col0 + bc) * m.b_col];
            }
            ta[ak * TILE + ar] = va;
            tb[bk * TILE + bc] = vb;
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k++) {
            let p = k * TILE + tx * 4u;
            let q = k * TILE + ty * 4u;
            let vb = vec4<f32>(tb[p], tb[p + 1u], tb[p + 2u], tb[p + 3u]);
            sums[0] += ta[q] * vb;
            sums[1] += ta[q + 1u] * vb;
            sums[2] += ta[q + 2u] * vb;
            sums[3] += ta[q + 3u] * vb;
        }
        workgroupBarrier();
    }
    if (batch >= m.batches) {
        return;
    }
    for (var i = 0u; i < 4u; i++) {
        let row = row0 + ty * 4u + i;
        for (var j = 0u; j < 4u; j++) {
            let col = col0 + tx * 4u + j;
            if (row < m.rows && col < m.cols) {
                c[(batch * m.rows + row) * m.cols + col] = sums[i][j];
            }
        }
    }
}
