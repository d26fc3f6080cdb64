// Sum, or sum of squares, of pieces of a buffer: one piece a workgroup.
// #include "shared/grid.wgsl"
// #include "shared/row.wgsl"
struct Meta {
    n: u32,
    piece: u32,
    pieces: u32,
    square: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let start = group * m.piece;
    let end = min(start + m.piece, m.n);
    var total = 0.0;
    for (var i = start + lid; i < end; i += 64u) {
        let v = x[i];
        total += select(v, v * v, m.square == 1u);
    }
    total = row_sum(total, lid);
    if (lid == 0u && group < m.pieces) {
        y[group] = total;
    }
}
