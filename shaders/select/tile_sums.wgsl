// Sums of tiles of 1,024 integers.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    tiles: u32,
}
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;
@group(0) @binding(2) var<uniform> m: Meta;
var<workgroup> partials: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let tile = workgroup_index(wid, wn);
    var total = 0u;
    for (var i = tile * 1024u + lid; i < min(tile * 1024u + 1024u, m.n); i += 64u) {
        total += x[i];
    }
    partials[lid] = total;
    workgroupBarrier();
    if (lid == 0u && tile < m.tiles) {
        total = 0u;
        for (var l = 0u; l < 64u; l++) {
            total += partials[l];
        }
        sums[tile] = total;
    }
}
