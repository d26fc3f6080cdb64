// Operands of attention; to be included after keys.wgsl.
const TILE: u32 = 32u;
// vec4s of features that an invocation keeps at a time, and features.
const CHUNK: u32 = 16u;
const FEATURES: u32 = 64u;
// How many of them are used. Known when the pipeline is made, so that loops unroll and arrays become registers; or 0: then it
// is m.vectors, for software drivers, which take seconds to compile unrolled loops and have no registers to win.
override VECTORS: u32 = 0u;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> mask: array<u32>;
@group(0) @binding(4) var<storage, read> counts: array<u32>;

// Four features from `feature` on of a row that starts at `at`; zeros beyond the width.
fn q4(at: u32, feature: u32) -> vec4<f32> {
    let i = feature + vec4<u32>(0u, 1u, 2u, 3u);
    let p = at + min(i, vec4<u32>(m.width - 1u)) * m.q.w;
    return select(vec4<f32>(), vec4<f32>(q[p.x], q[p.y], q[p.z], q[p.w]), i < vec4<u32>(m.width));
}

fn k4(at: u32, feature: u32) -> vec4<f32> {
    let i = feature + vec4<u32>(0u, 1u, 2u, 3u);
    let p = at + min(i, vec4<u32>(m.width - 1u)) * m.k.w;
    return select(vec4<f32>(), vec4<f32>(k[p.x], k[p.y], k[p.z], k[p.w]), i < vec4<u32>(m.width));
}

fn v4(at: u32, feature: u32) -> vec4<f32> {
    let i = feature + vec4<u32>(0u, 1u, 2u, 3u);
    let p = at + min(i, vec4<u32>(m.value_width - 1u)) * m.v.w;
    return select(vec4<f32>(), vec4<f32>(v[p.x], v[p.y], v[p.z], v[p.w]), i < vec4<u32>(m.value_width));
}

fn vectors() -> u32 {
    if (VECTORS > 0u) {
        return VECTORS;
    }
    return m.vectors;
}

fn sum4(x: vec4<f32>) -> f32 {
    return (x.x + x.y) + (x.z + x.w);
}
