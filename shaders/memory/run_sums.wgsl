// The sum of each run, by the invocations of its first hit: into the row of a table that the key names, or in place of that
// hit with zeros in place of the others.
// #include "shared/grid.wgsl"
// #include "shared/runs.wgsl"
override TABLE: bool = true;
@group(0) @binding(3) var<storage, read> partials: array<f32>;
@group(0) @binding(4) var<storage, read_write> output: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let item = workgroup_index(wid, wn) * 64u + lid;
    let hit = item / m.width;
    if (hit >= m.n) {
        return;
    }
    let col = item % m.width;
    let key = keys[hit];
    let first = hit == 0u || keys[max(hit, 1u) - 1u] != key;
    if (!first || key >= m.rows) {
        if (!TABLE) {
            output[item] = 0.0;
        }
        return;
    }
    var total = piece_sum(m, hit, col);
    for (var start = hit + PIECE; start < m.n && keys[min(start, m.n - 1u)] == key; start += PIECE) {
        total += partials[start / PIECE * m.width + col];
    }
    if (TABLE) {
        output[key * m.width + col] = total;
    } else {
        output[item] = total;
    }
}
