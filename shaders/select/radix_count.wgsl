// Number of keys with each digit in each tile, by row, digit and tile.
// #include "shared/grid.wgsl"
// #include "shared/radix.wgsl"
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;
@group(0) @binding(2) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    count_tile(m, group, lid);
    if (lid < 16u && group < m.rows * m.tiles) {
        let q = lid * 4u;
        counts[count_at(m, group, lid)] = quarters[q] + quarters[q + 1u] + quarters[q + 2u] + quarters[q + 3u];
    }
}
