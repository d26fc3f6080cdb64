// Partial sums of long runs: of the piece that starts among places q PIECE .. (q + 1) PIECE and is not its run's first; 0 if
// there is none.
// #include "shared/grid.wgsl"
// #include "shared/value.wgsl"
// #include "shared/runs.wgsl"
@group(0) @binding(3) var<storage, read> keys: array<u32>;
@group(0) @binding(4) var<storage, read_write> partials: array<f32>;
@group(0) @binding(5) var<uniform> m: Runs;

// The first place from low on, below high, whose key is not below `key`.
fn lower_bound(start: u32, end: u32, key: u32) -> u32 {
    var low = start;
    var high = end;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (keys[middle] < key) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let item = workgroup_index(wid, wn) * 64u + lid;
    let place = item / m.width * PIECE;
    if (place >= m.n) {
        return;
    }
    let key = keys[place];
    let low = lower_bound(0u, place, key);
    let start = low + (place - low + PIECE - 1u) / PIECE * PIECE;
    var total = 0.0;
    // Runs of keys that name no row are not summed.
    if (key < m.rows && start > low && start < m.n) {
        if (keys[start] == key) {
            total = piece_sum(m, start, lower_bound(start, min(start + PIECE, m.n), key + 1u), item % m.width);
        }
    }
    partials[item] = total;
}
