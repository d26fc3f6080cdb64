// What the kernels of top-k share beside order.wgsl: rows [rows, n] of floats, as bits.
struct Meta {
    rows: u32,
    n: u32,
    k: u32,
    // Tiles of a row.
    tiles: u32,
    // Stage of the radix select, and how many there are.
    stage: u32,
    stages: u32,
    // Length of a sorted run.
    run: u32,
}
@group(0) @binding(0) var<storage, read> x: array<u32>;

// Bits of the value that an entry of this rank has.
fn value_at(i: u32, rank: u32) -> u32 {
    if (rank == RANK_MASKED) {
        return 0xff7fffffu;
    }
    return x[i];
}
