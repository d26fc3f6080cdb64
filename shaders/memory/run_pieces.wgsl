// Partial sums of long runs: of the piece that starts among hits q PIECE .. (q + 1) PIECE and is not its run's first.
// #include "shared/grid.wgsl"
// #include "shared/runs.wgsl"
@group(0) @binding(3) var<storage, read_write> partials: array<f32>;
@group(0) @binding(4) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let item = workgroup_index(wid, wn) * 64u + lid;
    let q = item / m.width;
    let hit = q * PIECE;
    if (hit >= m.n) {
        return;
    }
    // Start of the run that hit q PIECE lies in: the first key not below its own.
    let key = keys[hit];
    var low = 0u;
    var high = hit;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (keys[middle] < key) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    let start = low + (hit - low + PIECE - 1u) / PIECE * PIECE;
    // Runs of keys that name no row are not summed.
    if (key < m.rows && start > low && start < m.n) {
        if (keys[start] == key) {
            partials[item] = piece_sum(m, start, item % m.width);
        }
    }
}
