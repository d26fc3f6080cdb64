// Brings the chosen entries of each row together, a tile a workgroup, in any order: they are sorted afterwards.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/top_k.wgsl"
// #include "shared/top_k_mask.wgsl"
// #include "shared/radix_select.wgsl"
// k = n: every entry is chosen.
override ALL: bool = false;
@group(0) @binding(2) var<storage, read> bounds: array<Bound>;
// Entries of each row placed so far, zero at first.
@group(0) @binding(3) var<storage, read_write> placed: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> ranks: array<u32>;
@group(0) @binding(5) var<storage, read_write> indices: array<u32>;
@group(0) @binding(6) var<uniform> m: Meta;
const TILE: u32 = 8192u;
var<workgroup> count: atomic<u32>;
var<workgroup> base: u32;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let row = min(group / m.tiles, m.rows - 1u);
    let start = group % m.tiles * TILE;
    let end = select(0u, min(start + TILE, m.n), group < m.rows * m.tiles);
    if (ALL) {
        for (var i = start + lid; i < end; i += 256u) {
            ranks[row * m.k + i] = rank_at(row * m.n + i);
            indices[row * m.k + i] = i;
        }
    } else {
        let b = bounds[(m.stages & 1u) * m.rows + row];
        var total = 0u;
        for (var i = start + lid; i < end; i += 256u) {
            total += u32(chosen(b, rank_at(row * m.n + i), i));
        }
        atomicAdd(&count, total);
        workgroupBarrier();
        if (lid == 0u) {
            base = atomicAdd(&placed[row], atomicLoad(&count));
            atomicStore(&count, 0u);
        }
        workgroupBarrier();
        for (var i = start + lid; i < end; i += 256u) {
            let rank = rank_at(row * m.n + i);
            if (chosen(b, rank, i)) {
                let slot = base + atomicAdd(&count, 1u);
                if (slot < m.k) {
                    ranks[row * m.k + slot] = rank;
                    indices[row * m.k + slot] = i;
                }
            }
        }
    }
}
