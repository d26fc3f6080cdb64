// Sum of the squares of the sums of runs, over pieces of places times columns: one piece a workgroup.
// #include "shared/grid.wgsl"
// #include "shared/row.wgsl"
// #include "shared/value.wgsl"
// #include "shared/runs.wgsl"
// #include "shared/run_sum.wgsl"
struct Meta {
    runs: Runs,
    piece: u32,
    pieces: u32,
}
@group(0) @binding(4) var<storage, read> ends: array<u32>;
@group(0) @binding(5) var<storage, read_write> sums: array<f32>;
@group(0) @binding(6) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let start = group * m.piece;
    let stop = min(start + m.piece, m.runs.n * m.runs.width);
    var total = 0.0;
    for (var i = start + lid; i < stop; i += 64u) {
        let place = i / m.runs.width;
        let end = ends[place];
        if (end > 0u) {
            let v = run_sum(m.runs, place, end, i % m.runs.width);
            total += v * v;
        }
    }
    total = row_sum(total, lid);
    if (lid == 0u && group < m.pieces) {
        sums[group] = total;
    }
}
