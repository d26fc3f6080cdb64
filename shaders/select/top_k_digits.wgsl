// One stage of the radix select of long rows, a tile a workgroup: narrows the bound by what the stage before counted, then
// counts the tile. After the last stage only the bound is left to narrow.
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/top_k.wgsl"
// #include "shared/top_k_mask.wgsl"
// #include "shared/radix_select.wgsl"
// [stages, rows, BINS], zero at first.
@group(0) @binding(2) var<storage, read_write> counts: array<atomic<u32>>;
// [2, rows], by the parity of the stage that reads them.
@group(0) @binding(3) var<storage, read_write> bounds: array<Bound>;
@group(0) @binding(4) var<uniform> m: Meta;
const TILE: u32 = 8192u;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let valid = group < m.rows * m.tiles;
    let row = min(group / m.tiles, m.rows - 1u);
    let tile = group % m.tiles;
    var b = Bound(0u, 0u, m.k);
    if (m.stage > 0u) {
        let last = m.stage - 1u;
        if (last > 0u) {
            b = bounds[(last & 1u) * m.rows + row];
        }
        for (var q = lid; q < BINS; q += 256u) {
            atomicStore(&bins[q], atomicLoad(&counts[(last * m.rows + row) * BINS + q]));
        }
        workgroupBarrier();
        b = narrow(m, last, b, lid);
        if (valid && tile == 0u && lid == 0u) {
            bounds[(m.stage & 1u) * m.rows + row] = b;
        }
    }
    if (m.stage < m.stages) {
        clear_bins(lid);
        let end = select(0u, min(tile * TILE + TILE, m.n), valid && b.want > 0u);
        for (var i = tile * TILE + lid; i < end; i += 256u) {
            count_entry(m, m.stage, b, rank_at(row * m.n + i), i);
        }
        workgroupBarrier();
        for (var q = lid; q < BINS; q += 256u) {
            let count = atomicLoad(&bins[q]);
            if (count > 0u) {
                atomicAdd(&counts[(m.stage * m.rows + row) * BINS + q], count);
            }
        }
    }
}
