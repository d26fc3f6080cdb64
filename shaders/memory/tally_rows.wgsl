// Adds to each row of a table that sorted hits name the sums of their values, how many they are, and 1, in place. A column of
// a hit an invocation, of which those of the first hit of a run do it.
// #include "shared/grid.wgsl"
// #include "shared/value.wgsl"
// #include "shared/runs.wgsl"
// #include "shared/run_sum.wgsl"
@group(0) @binding(4) var<storage, read> keys: array<u32>;
@group(0) @binding(5) var<storage, read> ends: array<u32>;
@group(0) @binding(6) var<storage, read_write> table: array<f32>;
@group(0) @binding(7) var<uniform> m: Runs;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let columns = m.width + 2u;
    let item = workgroup_index(wid, wn) * 64u + lid;
    let hit = item / columns;
    if (hit >= m.n) {
        return;
    }
    let end = ends[hit];
    if (end == 0u) {
        return;
    }
    let col = item % columns;
    var more = 1.0;
    if (col < m.width) {
        more = run_sum(m, hit, end, col);
    } else if (col == m.width) {
        more = f32(end - hit);
    }
    let place = keys[hit] * columns + col;
    table[place] = table[place] + more;
}
