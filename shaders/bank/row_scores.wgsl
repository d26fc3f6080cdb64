// scores[row, route] = <row, query of its sample>, for the rows of one piece of a table; a row is read once for up to four
// routes. LANES invocations share a row.
// #include "shared/grid.wgsl"
override HALF: u32 = 0u;
override LANES: u32 = 8u;
override ROUTES: u32 = 1u;
struct Meta {
    first: u32,
    rows: u32,
    width: u32,
    words: u32,
    // Rows of a sample.
    n: u32,
    routes: u32,
    // 1: the same queries for all samples.
    shared_queries: u32,
}
@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> queries: array<f32>;
@group(0) @binding(2) var<storage, read_write> scores: array<f32>;
@group(0) @binding(3) var<uniform> m: Meta;

var<workgroup> partials: array<vec4<f32>, 64>;

// Entry `column` of the queries of four routes; a route past the last one repeats it.
fn query(start: u32, route: u32, column: u32) -> vec4<f32> {
    let last = m.routes - 1u;
    var q = vec4<f32>(queries[start + route * m.width + column], 0.0, 0.0, 0.0);
    if (ROUTES > 1u) {
        q.y = queries[start + min(route + 1u, last) * m.width + column];
    }
    if (ROUTES > 2u) {
        q.z = queries[start + min(route + 2u, last) * m.width + column];
        q.w = queries[start + min(route + 3u, last) * m.width + column];
    }
    return q;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let row = workgroup_index(wid, wn) * (64u / LANES) + lid / LANES;
    let lane = lid % LANES;
    let start = select((m.first + row) / m.n, 0u, m.shared_queries == 1u) * m.routes * m.width;
    for (var route = 0u; route < m.routes; route += 4u) {
        var sum = vec4<f32>();
        if (row < m.rows) {
            for (var c = lane; c < m.words; c += LANES) {
                let word = table[row * m.words + c];
                if (HALF == 0u) {
                    sum += bitcast<f32>(word) * query(start, route, c);
                } else {
                    let pair = unpack2x16float(word);
                    sum += pair.x * query(start, route, 2u * c);
                    if (2u * c + 1u < m.width) {
                        sum += pair.y * query(start, route, 2u * c + 1u);
                    }
                }
            }
        }
        if (LANES > 1u) {
            partials[lid] = sum;
            workgroupBarrier();
            for (var s = LANES / 2u; s > 0u; s >>= 1u) {
                if (lane < s) {
                    partials[lid] += partials[lid + s];
                }
                workgroupBarrier();
            }
            sum = partials[lid];
            workgroupBarrier();
        }
        if (lane == 0u && row < m.rows) {
            let at = (m.first + row) * m.routes + route;
            scores[at] = sum.x;
            if (route + 1u < m.routes) {
                scores[at + 1u] = sum.y;
            }
            if (route + 2u < m.routes) {
                scores[at + 2u] = sum.z;
            }
            if (route + 3u < m.routes) {
                scores[at + 3u] = sum.w;
            }
        }
    }
}
