// output[row, column] from rows packed in half precision.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    width: u32,
    words: u32,
}
@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read_write> output: array<f32>;
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
    let column = i % m.width;
    let pair = unpack2x16float(table[i / m.width * m.words + column / 2u]);
    output[i] = select(pair.x, pair.y, column % 2u == 1u);
}
