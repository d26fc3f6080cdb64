// What an element of the output's gradient adds to those of `x` and of its channel's `a`.
// #include "shared/grid.wgsl"

struct Meta { n: u32, channels: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;
@group(0) @binding(4) var<storage, read_write> da: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;
@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = 64u * workgroup_index(wid, wn) + lid;
    if (i >= m.n) { return; }
    let rate = a[i % m.channels];
    let s = sin(rate * x[i]);
    let double = sin(2.0 * rate * x[i]);
    dx[i] = g[i] * (1.0 + double);
    da[i] = g[i] * (x[i] * double - s * s / rate) / rate;
}
