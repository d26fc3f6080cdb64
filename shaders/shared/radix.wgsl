// One pass of a radix sort by 4 bits, least significant digit first (Satish, Harris and Garland 2009), of each row of
// [rows, n]. A workgroup takes a tile of 1,024 keys of a row, an invocation 16 neighbours, so that order within a tile is by
// invocation, then by place. Counts are ordered by row, digit and tile: their prefix sums are places in all rows.
const TILE: u32 = 1024u;
const LANE: u32 = 16u;
struct Meta {
    n: u32,
    // Tiles of a row, and rows.
    tiles: u32,
    rows: u32,
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

// First and end of the keys of an invocation.
fn keys_of(m: Meta, group: u32, lid: u32) -> vec2<u32> {
    let start = group % m.tiles * TILE + lid * LANE;
    let row = select(0u, group / m.tiles * m.n, group < m.rows * m.tiles);
    let end = select(0u, min(start + LANE, m.n), group < m.rows * m.tiles);
    return vec2<u32>(row + start, row + end);
}

// Where the count of a digit in a tile stands.
fn count_at(m: Meta, group: u32, digit: u32) -> u32 {
    return (group / m.tiles * 16u + digit) * m.tiles + group % m.tiles;
}

// Counts a tile; quarters[4 d + q] is the number of keys with digit d in quarter q of the invocations.
fn count_tile(m: Meta, group: u32, lid: u32) {
    for (var d = 0u; d < 16u; d++) {
        tally[d * 64u + lid] = 0u;
    }
    let range = keys_of(m, group, lid);
    for (var i = range.x; i < range.y; i++) {
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
