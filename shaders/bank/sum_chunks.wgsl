// output[sample, i] = sum over the chunks of sums[sample, chunk, i].
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    each: u32,
    chunks: u32,
}
@group(0) @binding(0) var<storage, read> sums: array<f32>;
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
    let start = i / m.each * m.chunks * m.each + i % m.each;
    var sum = 0.0;
    for (var chunk = 0u; chunk < m.chunks; chunk++) {
        sum += sums[start + chunk * m.each];
    }
    output[i] = sum;
}
