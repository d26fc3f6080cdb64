// One pass of a radix sort by 4 bits, least significant digit first (Satish, Harris and Garland 2009). A workgroup takes a
// tile of 1,024 keys, an invocation 16 neighbours, so that order within a tile is by invocation, then by place.
const TILE: u32 = 1024u;
const LANE: u32 = 16u;
struct Meta {
    n: u32,
    tiles: u32,
    shift: u32,
    // Larger keys count as this one.
    limit: u32,
}
@group(0) @binding(0) var<storage, read> keys: array<u32>;
// Number of keys by digit, then invocation; and its sums over quarters of the invocations.
var<workgroup> tally: array<u32, 1024>;
var<workgroup> quarters: array<u32, 64>;

fn key_at(m: Meta, i: u32) -> u32 {
    return min(keys[i], m.limit);
}

fn digit(m: Meta, key: u32) -> u32 {
    return (key >> m.shift) & 15u;
}

// Counts a tile; quarters[4 d + q] is the number of keys with digit d in quarter q of the invocations.
fn count_tile(m: Meta, tile: u32, lid: u32) {
    for (var d = 0u; d < 16u; d++) {
        tally[d * 64u + lid] = 0u;
    }
    let start = tile * TILE + lid * LANE;
    for (var i = start; i < min(start + LANE, m.n); i++) {
        tally[digit(m, key_at(m, i)) * 64u + lid] += 1u;
    }
    workgroupBarrier();
    var total = 0u;
    for (var k = 0u; k < 16u; k++) {
        total += tally[lid * 16u + k];
    }
    quarters[lid] = total;
    workgroupBarrier();
}
