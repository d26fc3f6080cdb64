// Top-k of rows of up to 256 entries, as many rows a workgroup as fit: the place of an entry is the number of entries
// before it.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/top_k.wgsl"
// #include "shared/top_k_mask.wgsl"
@group(0) @binding(2) var<storage, read_write> values: array<u32>;
@group(0) @binding(3) var<storage, read_write> indices: array<u32>;
@group(0) @binding(4) var<uniform> m: Meta;
var<workgroup> ranks: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let rows = 256u / m.n;
    let row = workgroup_index(wid, wn) * rows + lid / m.n;
    let i = lid % m.n;
    let inside = lid / m.n < rows && row < m.rows;
    var rank = 0u;
    if (inside) {
        rank = rank_at(row * m.n + i);
    }
    ranks[lid] = rank;
    workgroupBarrier();
    if (inside) {
        let first = lid - i;
        var place = 0u;
        for (var j = 0u; j < m.n; j++) {
            place += u32(before(ranks[first + j], j, rank, i));
        }
        if (place < m.k) {
            values[row * m.k + place] = value_at(row * m.n + i, rank);
            indices[row * m.k + place] = i;
        }
    }
}
