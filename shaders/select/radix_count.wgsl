// Number of keys with each digit in each tile, by digit, then tile.
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
    let tile = workgroup_index(wid, wn);
    count_tile(m, tile, lid);
    if (lid < 16u && tile < m.tiles) {
        let q = lid * 4u;
        counts[lid * m.tiles + tile] = quarters[q] + quarters[q + 1u] + quarters[q + 2u] + quarters[q + 3u];
    }
}
