// Moves keys and positions to their places by one digit. Equal digits keep their order, so the sort is stable.
// #include "shared/grid.wgsl"
// #include "shared/radix.wgsl"
// In the first pass the position of a key is its index in its row.
override FIRST: bool = false;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
// Exclusive prefix sums of the counts.
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read_write> sorted: array<u32>;
@group(0) @binding(4) var<storage, read_write> moved: array<u32>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    count_tile(m, group, lid);
    // Invocation 4 d + q turns quarter q of digit d into places.
    var at = places[count_at(m, min(group, m.rows * m.tiles - 1u), lid / 4u)];
    for (var q = lid & ~3u; q < lid; q++) {
        at += quarters[q];
    }
    for (var k = lid * 16u; k < lid * 16u + 16u; k++) {
        let count = tally[k];
        tally[k] = at;
        at += count;
    }
    workgroupBarrier();
    let range = keys_of(m, group, lid);
    for (var i = range.x; i < range.y; i++) {
        let key = key_at(m, i);
        let slot = digit(m, key) * 64u + lid;
        let place = tally[slot];
        tally[slot] = place + 1u;
        sorted[place] = key;
        if (FIRST) {
            moved[place] = i - group / m.tiles * m.n;
        } else {
            moved[place] = positions[i];
        }
    }
}
