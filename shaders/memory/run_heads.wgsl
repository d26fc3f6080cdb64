// The key at the first hit of each run, `rows` elsewhere.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    rows: u32,
}
@group(0) @binding(0) var<storage, read> keys: array<u32>;
@group(0) @binding(1) var<storage, read_write> heads: array<u32>;
@group(0) @binding(2) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.n) {
        return;
    }
    let key = keys[i];
    let first = i == 0u || keys[max(i, 1u) - 1u] != key;
    heads[i] = select(m.rows, key, first && key < m.rows);
}
