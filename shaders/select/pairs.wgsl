// The k best sums of two descending lists, a row a workgroup: the place of a candidate is the number of candidates before
// it.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/pairs.wgsl"
var<workgroup> ranks: array<u32, 2048>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = workgroup_index(wid, wn);
    let inside = row < m.rows;
    if (inside) {
        for (var c = lid; c < m.candidates; c += 64u) {
            ranks[c] = rank_of(bitcast<u32>(sum_of(row, candidates[c])));
        }
    }
    workgroupBarrier();
    if (inside) {
        for (var c = lid; c < m.candidates; c += 64u) {
            let rank = ranks[c];
            var place = 0u;
            for (var other = 0u; other < m.candidates && place < m.k; other++) {
                place += u32(before(ranks[other], other, rank, c));
            }
            if (place < m.k) {
                put(row, place, candidates[c]);
            }
        }
    }
}
