// Top-k by one workgroup a row: the bound of the chosen entries, and for k <= 256 the entries themselves.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/top_k.wgsl"
// #include "shared/top_k_mask.wgsl"
// #include "shared/radix_select.wgsl"
override FINISH: bool = false;
@group(0) @binding(2) var<storage, read_write> bounds: array<Bound>;
@group(0) @binding(3) var<storage, read_write> values: array<u32>;
@group(0) @binding(4) var<storage, read_write> indices: array<u32>;
@group(0) @binding(5) var<uniform> m: Meta;
var<workgroup> ranks: array<u32, 256>;
var<workgroup> places: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let row = min(group, m.rows - 1u);
    let valid = group < m.rows;
    let base = row * m.n;
    var b = Bound(0u, 0u, m.k);
    for (var stage = 0u; stage < m.stages; stage++) {
        clear_bins(lid);
        let n = select(0u, m.n, b.want > 0u);
        for (var i = lid; i < n; i += 256u) {
            count_entry(m, stage, b, rank_at(base + i), i);
        }
        workgroupBarrier();
        b = narrow(m, stage, b, lid);
    }
    if (!FINISH) {
        if (valid && lid == 0u) {
            bounds[(m.stages & 1u) * m.rows + row] = b;
        }
    } else {
        if (lid == 0u) {
            atomicStore(&bins[0], 0u);
        }
        workgroupBarrier();
        for (var i = lid; i < m.n; i += 256u) {
            let rank = rank_at(base + i);
            if (chosen(b, rank, i)) {
                // In any order: they are put in theirs below.
                let slot = min(atomicAdd(&bins[0], 1u), 255u);
                ranks[slot] = rank;
                places[slot] = i;
            }
        }
        workgroupBarrier();
        if (valid && lid < m.k) {
            let rank = ranks[lid];
            let i = places[lid];
            var place = 0u;
            for (var j = 0u; j < m.k; j++) {
                place += u32(before(ranks[j], places[j], rank, i));
            }
            values[row * m.k + place] = value_at(base + i, rank);
            indices[row * m.k + place] = i;
        }
    }
}
