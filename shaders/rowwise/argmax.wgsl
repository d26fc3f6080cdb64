// Index of the largest of the middle of [outer, n, inner]; the lowest index at a tie.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
override LANES: u32 = 64u;
struct Meta {
    outputs: u32,
    n: u32,
    inner: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> m: Meta;

const NONE: u32 = 0xffffffffu;
var<workgroup> values: array<f32, 64>;
var<workgroup> places: array<u32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let row = select(group, group * 64u + lid, LANES == 1u);
    let lane = select(lid, 0u, LANES == 1u);
    let n = select(0u, m.n, row < m.outputs);
    let base = row / m.inner * m.n * m.inner + row % m.inner;
    var top = LOWEST;
    var at = NONE;
    for (var i = lane; i < n; i += LANES) {
        let v = x[base + i * m.inner];
        if (v > top || at == NONE) {
            top = v;
            at = i;
        }
    }
    if (LANES > 1u) {
        values[lid] = top;
        places[lid] = at;
        workgroupBarrier();
        for (var s = 32u; s > 0u; s >>= 1u) {
            if (lid < s) {
                let v = values[lid + s];
                let i = places[lid + s];
                if (v > values[lid] || (v == values[lid] && i < places[lid])) {
                    values[lid] = v;
                    places[lid] = i;
                }
            }
            workgroupBarrier();
        }
        at = places[0];
    }
    if (row < m.outputs && lane == 0u) {
        y[row] = at;
    }
}
