// Merges neighbouring sorted runs: the place of an entry is its place in its run plus the number of entries of the other
// run before it.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/top_k.wgsl"
// The merged run is the whole row: values are written in place of ranks.
override LAST: bool = false;
@group(0) @binding(1) var<storage, read> ranks: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> sorted: array<u32>;
@group(0) @binding(4) var<storage, read_write> moved: array<u32>;
@group(0) @binding(5) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let item = workgroup_index(wid, wn) * 64u + lid;
    if (item >= m.rows * m.k) {
        return;
    }
    let row = item / m.k;
    let first = row * m.k;
    let i = item - first;
    let run = i / m.run;
    let rank = ranks[item];
    let index = indices[item];
    let start = min((run ^ 1u) * m.run, m.k);
    var low = start;
    var high = min(start + m.run, m.k);
    while (low < high) {
        let middle = (low + high) / 2u;
        if (before(ranks[first + middle], indices[first + middle], rank, index)) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    let place = first + run / 2u * 2u * m.run + (i - run * m.run) + (low - start);
    moved[place] = index;
    if (LAST) {
        sorted[place] = value_at(row * m.n + index, rank);
    } else {
        sorted[place] = rank;
    }
}
