// Index of the largest of the middle of [outer, n, inner], in pieces of `len` entries: rank and index of the first of each,
// [outer, pieces, inner].
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
override LANES: u32 = 64u;
// Entries are ranks with indices in `from`: what an earlier dispatch found in the pieces of a row.
override PAIRS: bool = false;
// There is one piece, and its index is all that is wanted.
override LAST: bool = false;
struct Meta {
    outputs: u32,
    n: u32,
    inner: u32,
    pieces: u32,
    len: u32,
}
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> ranks: array<u32>;
@group(0) @binding(3) var<storage, read_write> indices: array<u32>;
@group(0) @binding(4) var<uniform> m: Meta;

const NONE: u32 = 0xffffffffu;
var<workgroup> lane_ranks: array<u32, 64>;
var<workgroup> lane_indices: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let row = select(group, group * 64u + lid, LANES == 1u);
    let lane = select(lid, 0u, LANES == 1u);
    let start = row / m.inner % m.pieces * m.len;
    let end = select(0u, min(start + m.len, m.n), row < m.outputs);
    let base = row / (m.inner * m.pieces) * m.n * m.inner + row % m.inner;
    var rank = NONE;
    var index = NONE;
    for (var i = start + lane; i < end; i += LANES) {
        let at = base + i * m.inner;
        var r = x[at];
        var k = i;
        if (PAIRS) {
            k = source[at];
        } else {
            r = rank_of(r);
        }
        if (before(r, k, rank, index)) {
            rank = r;
            index = k;
        }
    }
    if (LANES > 1u) {
        lane_ranks[lid] = rank;
        lane_indices[lid] = index;
        workgroupBarrier();
        for (var s = 32u; s > 0u; s >>= 1u) {
            if (lid < s) {
                let r = lane_ranks[lid + s];
                let k = lane_indices[lid + s];
                if (before(r, k, lane_ranks[lid], lane_indices[lid])) {
                    lane_ranks[lid] = r;
                    lane_indices[lid] = k;
                }
            }
            workgroupBarrier();
        }
        rank = lane_ranks[0];
        index = lane_indices[0];
    }
    if (row < m.outputs && lane == 0u) {
        indices[row] = index;
        if (!LAST) {
            ranks[row] = rank;
        }
    }
}
