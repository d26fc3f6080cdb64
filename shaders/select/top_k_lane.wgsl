// Top-k with a row an invocation, for drivers to which barriers are dear: the best of every piece of the row, and k times the
// best of those, in whose piece the next one is looked for.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/top_k.wgsl"
// #include "shared/top_k_mask.wgsl"
@group(0) @binding(2) var<storage, read_write> values: array<u32>;
@group(0) @binding(3) var<storage, read_write> indices: array<u32>;
@group(0) @binding(4) var<uniform> m: Meta;
const PIECES: u32 = 128u;

@compute @workgroup_size(8)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = workgroup_index(wid, wn) * 8u + lid;
    if (row >= m.rows) {
        return;
    }
    let start = row * m.n;
    // Of m.run entries each.
    let pieces = min((m.n + m.run - 1u) / m.run, PIECES);
    var ranks: array<u32, PIECES>;
    var places: array<u32, PIECES>;
    for (var piece = 0u; piece < pieces; piece++) {
        var index = piece * m.run;
        var rank = rank_at(start + index);
        for (var i = index + 1u; i < min((piece + 1u) * m.run, m.n); i++) {
            let r = rank_at(start + i);
            if (r < rank) {
                rank = r;
                index = i;
            }
        }
        ranks[piece] = rank;
        places[piece] = index;
    }
    for (var place = 0u; place < m.k; place++) {
        var rank = ranks[0];
        var index = places[0];
        for (var piece = 1u; piece < pieces; piece++) {
            if (before(ranks[piece], places[piece], rank, index)) {
                rank = ranks[piece];
                index = places[piece];
            }
        }
        values[row * m.k + place] = value_at(start + index, rank);
        indices[row * m.k + place] = index;
        let piece = min(index / m.run, PIECES - 1u);
        // Behind everything, if nothing is left.
        var next_rank = 0xffffffffu;
        var next = 0xffffffffu;
        for (var i = piece * m.run; i < min((piece + 1u) * m.run, m.n); i++) {
            let r = rank_at(start + i);
            if (before(rank, index, r, i) && before(r, i, next_rank, next)) {
                next_rank = r;
                next = i;
            }
        }
        ranks[piece] = next_rank;
        places[piece] = next;
    }
}
