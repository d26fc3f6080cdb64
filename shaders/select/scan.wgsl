// Exclusive prefix sums of integers in place, a tile of 1,024 a workgroup.
// #include "shared/grid.wgsl"
// The only tile; otherwise `before` holds the sum before each tile.
override SINGLE: bool = false;
struct Meta {
    n: u32,
    tiles: u32,
}
@group(0) @binding(0) var<storage, read> before: array<u32>;
@group(0) @binding(1) var<storage, read_write> x: array<u32>;
@group(0) @binding(2) var<uniform> m: Meta;
var<workgroup> partials: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let tile = workgroup_index(wid, wn);
    let start = tile * 1024u + lid * 16u;
    let end = min(start + 16u, m.n);
    var total = 0u;
    for (var i = start; i < end; i++) {
        total += x[i];
    }
    partials[lid] = total;
    workgroupBarrier();
    var running = 0u;
    if (!SINGLE) {
        running = before[min(tile, m.tiles - 1u)];
    }
    for (var l = 0u; l < lid; l++) {
        running += partials[l];
    }
    for (var i = start; i < end; i++) {
        let value = x[i];
        x[i] = running;
        running += value;
    }
}
