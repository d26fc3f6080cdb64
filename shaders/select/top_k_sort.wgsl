// Sorts runs of up to 1,024 chosen entries of a row in workgroup memory (Batcher 1968).
// #include "shared/grid.wgsl"
// #include "shared/order.wgsl"
// #include "shared/top_k.wgsl"
// A power of two.
override SIZE: u32 = 1024u;
// The run is the whole row: values are written in place of ranks.
override LAST: bool = false;
@group(0) @binding(1) var<storage, read> ranks: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> sorted: array<u32>;
@group(0) @binding(4) var<storage, read_write> moved: array<u32>;
@group(0) @binding(5) var<uniform> m: Meta;
var<workgroup> r: array<u32, 1024>;
var<workgroup> p: array<u32, 1024>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let row = min(group / m.tiles, m.rows - 1u);
    let start = group % m.tiles * SIZE;
    let len = select(0u, min(SIZE, m.k - start), group < m.rows * m.tiles);
    let first = row * m.k + start;
    for (var i = lid; i < SIZE; i += 256u) {
        r[i] = 0xffffffffu;
        p[i] = 0xffffffffu;
        if (i < len) {
            r[i] = ranks[first + i];
            p[i] = indices[first + i];
        }
    }
    workgroupBarrier();
    for (var size = 2u; size <= SIZE; size <<= 1u) {
        for (var gap = size >> 1u; gap > 0u; gap >>= 1u) {
            for (var t = lid; t < SIZE / 2u; t += 256u) {
                // The pair of places that differ in bit `gap`.
                let a = t / gap * gap * 2u + t % gap;
                let b = a + gap;
                let up = (a & size) == 0u;
                if (before(r[b], p[b], r[a], p[a]) == up) {
                    let rank = r[a];
                    let place = p[a];
                    r[a] = r[b];
                    p[a] = p[b];
                    r[b] = rank;
                    p[b] = place;
                }
            }
            workgroupBarrier();
        }
    }
    for (var i = lid; i < len; i += 256u) {
        moved[first + i] = p[i];
        if (LAST) {
            sorted[first + i] = value_at(row * m.n + p[i], r[i]);
        } else {
            sorted[first + i] = r[i];
        }
    }
}
