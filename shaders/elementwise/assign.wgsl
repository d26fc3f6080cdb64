// state = value, if the gate is open. Elements are moved as bits: any 32-bit type.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    gated: u32,
    offset: u32,
}
@group(0) @binding(0) var<storage, read> value: array<u32>;
@group(0) @binding(1) var<storage, read> gate: array<u32>;
@group(0) @binding(2) var<storage, read_write> state: array<u32>;
@group(0) @binding(3) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.n || (m.gated == 1u && gate[0] == 0u)) {
        return;
    }
    state[i] = value[m.offset + i];
}
