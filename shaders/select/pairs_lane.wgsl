// The k best sums of two descending lists, a row an invocation, for drivers to which barriers are dear: k times the best of
// the next pairs of each entry of the first list. k is below 256.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/pairs.wgsl"

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
    // How many pairs of each entry are taken, four in a word.
    var taken: array<u32, 64>;
    // An entry follows only after the first pair of the one before it.
    var entries = 1u;
    for (var place = 0u; place < m.k; place++) {
        var best_rank = 0xffffffffu;
        var best = 0u;
        var best_entry = 0u;
        for (var i = 0u; i < entries; i++) {
            let j = (taken[i / 4u] >> (i % 4u * 8u)) & 255u;
            if (j < m.b && (i + 1u) * (j + 1u) <= m.k) {
                let pair = i * m.b + j;
                let rank = rank_of(bitcast<u32>(sum_of(row, pair)));
                if (rank < best_rank) {
                    best_rank = rank;
                    best = pair;
                    best_entry = i;
                }
            }
        }
        put(row, place, best);
        taken[best_entry / 4u] += 1u << (best_entry % 4u * 8u);
        if (best_entry + 1u == entries && entries < m.a) {
            entries++;
        }
    }
}
