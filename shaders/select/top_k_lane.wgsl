// Top-k with a row an invocation, for drivers to which barriers are dear: k times the next entry in order.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/top_k.wgsl"
// #include "shared/top_k_mask.wgsl"
@group(0) @binding(2) var<storage, read_write> values: array<u32>;
@group(0) @binding(3) var<storage, read_write> indices: array<u32>;
@group(0) @binding(4) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = workgroup_index(wid, wn) * 64u + lid;
    if (row >= m.rows) {
        return;
    }
    var last_rank = 0u;
    var last_index = 0u;
    for (var place = 0u; place < m.k; place++) {
        var rank = 0xffffffffu;
        var index = 0xffffffffu;
        for (var i = 0u; i < m.n; i++) {
            let r = rank_at(row * m.n + i);
            if (before(r, i, rank, index) && (place == 0u || before(last_rank, last_index, r, i))) {
                rank = r;
                index = i;
            }
        }
        values[row * m.k + place] = value_at(row * m.n + index, rank);
        indices[row * m.k + place] = index;
        last_rank = rank;
        last_index = index;
    }
}
