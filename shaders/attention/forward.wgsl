// out = softmax(scale q k^T) v by online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867) over tiles of keys in
// workgroup memory, as in FlashAttention (Dao et al. 2022, arXiv 2205.14135): no matrix of scores is stored.
//
// A query is one invocation, or LANES of them that share its keys where there are few queries.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/attention.wgsl"
override LANES: u32 = 1u;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> logsumexp: array<f32>;
@group(0) @binding(7) var<uniform> m: Meta;

// Keys and values of a tile: [feature / 4][key].
var<workgroup> kt: array<vec4<f32>, 512>;
var<workgroup> vt: array<vec4<f32>, 512>;

fn put(at: u32, first: u32, value: vec4<f32>) {
    let n = min(m.value_width - min(first, m.value_width), 4u);
    for (var c = 0u; c < n; c++) {
        out[at + first + c] = value[c];
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let per_group = 64u / LANES;
    let blocks = (m.queries + per_group - 1u) / per_group;
    let pieces = max((m.value_width + FEATURES - 1u) / FEATURES, 1u);
    var group = workgroup_index(wid, wn);
    let piece = (group % pieces) * FEATURES;
    group = group / pieces;
    let block = (group % blocks) * per_group;
    group = group / blocks;
    let head = group % m.heads;
    let live = group / m.heads < m.batches;
    let batch = min(group / m.heads, m.batches - 1u);
    let kv_head = head / (m.heads / m.kv_heads);
    let row = block + lid / LANES;
    let lane = lid % LANES;
    let query = min(row, m.queries - 1u);
    let count = key_count(batch);
    var seen = interval(query, count);
    if (row >= m.queries) {
        seen.y = 0u;
    }
    // Keys that any query of the group sees.
    let first = interval(block, count).x;
    let last = select(0u, interval(min(block + per_group, m.queries) - 1u, count).y, live);

    let q_row = m.offsets.x + batch * m.q.x + head * m.q.y + query * m.q.z;
    let k_head = m.offsets.y + batch * m.k.x + kv_head * m.k.y;
    let v_head = m.offsets.z + batch * m.v.x + kv_head * m.v.y;
    let chunks = max((m.width + FEATURES - 1u) / FEATURES, 1u);
    var x: array<vec4<f32>, CHUNK>;
    var total: array<vec4<f32>, CHUNK>;
    var scores: array<f32, TILE>;
    var top = LOWEST;
    var sum = 0.0;
    for (var tile = first - first % TILE; tile < last; tile += TILE) {
        for (var n = 0u; n < TILE / LANES; n++) {
            scores[n] = 0.0;
        }
        for (var chunk = 0u; chunk < chunks; chunk++) {
            for (var n = lid; n < TILE * CHUNK; n += 64u) {
                let key = min(tile + n / CHUNK, m.keys - 1u);
                let e = n % CHUNK;
                let at = e * TILE + n / CHUNK;
                kt[at] = k4(k_head + key * m.k.z, chunk * FEATURES + e * 4u);
                if (chunk == 0u) {
                    vt[at] = v4(v_head + key * m.v.z, piece + e * 4u);
                }
            }
            if (chunks > 1u || tile <= first) {
                for (var e = 0u; e < CHUNK; e++) {
                    x[e] = q4(q_row, chunk * FEATURES + e * 4u);
                }
            }
            workgroupBarrier();
            for (var n = 0u; n < TILE / LANES; n++) {
                var dots = vec4<f32>();
                for (var e = 0u; e < CHUNK; e++) {
                    dots += x[e] * kt[e * TILE + n * LANES + lane];
                }
                scores[n] += sum4(dots);
            }
            if (chunk + 1u < chunks) {
                workgroupBarrier();
            }
        }
        var highest = top;
        for (var n = 0u; n < TILE / LANES; n++) {
            let key = tile + n * LANES + lane;
            if (key >= seen.x && key < seen.y && unmasked(batch, key)) {
                scores[n] *= m.scale;
                highest = max(highest, scores[n]);
            } else {
                scores[n] = LOWEST;
            }
        }
        let shrink = exp(max(top - highest, -100.0));
        top = highest;
        sum *= shrink;
        for (var e = 0u; e < CHUNK; e++) {
            total[e] *= shrink;
        }
        for (var n = 0u; n < TILE / LANES; n++) {
            if (scores[n] != LOWEST) {
                let p = exp(scores[n] - top);
                sum += p;
                for (var e = 0u; e < CHUNK; e++) {
                    total[e] += p * vt[e * TILE + n * LANES + lane];
                }
            }
        }
        workgroupBarrier();
    }

    if (LANES > 1u) {
        // Lanes of a query bring their sums to one maximum.
        kt[lid] = vec4<f32>(top, sum, 0.0, 0.0);
        workgroupBarrier();
        let base = lid - lane;
        var highest = LOWEST;
        for (var n = 0u; n < LANES; n++) {
            highest = max(highest, kt[base + n].x);
        }
        sum = 0.0;
        for (var n = 0u; n < LANES; n++) {
            sum += kt[base + n].y * exp(max(kt[base + n].x - highest, -100.0));
        }
        let shrink = exp(max(top - highest, -100.0));
        top = highest;
        for (var half = 0u; half < 2u; half++) {
            for (var e = 0u; e < 8u; e++) {
                vt[e * 64u + lid] = shrink * total[half * 8u + e];
            }
            workgroupBarrier();
            for (var e = 0u; e < 8u; e++) {
                var joined = vec4<f32>();
                for (var n = 0u; n < LANES; n++) {
                    joined += vt[e * 64u + base + n];
                }
                total[half * 8u + e] = joined;
            }
            workgroupBarrier();
        }
    }

    if (!live || row >= m.queries || lane > 0u) {
        return;
    }
    let at = (batch * m.heads + head) * m.queries + row;
    if (sum == 0.0) {
        // No key is visible: all scores are equally low, and the softmax is uniform.
        for (var e = 0u; e < CHUNK; e++) {
            var mean = vec4<f32>();
            if (piece + e * 4u < m.value_width) {
                for (var key = 0u; key < m.keys; key++) {
                    mean += v4(v_head + key * m.v.z, piece + e * 4u);
                }
                put(at * m.value_width, piece + e * 4u, mean / f32(max(m.keys, 1u)));
            }
        }
        top = LOWEST;
        sum = 1.0;
    } else {
        for (var e = 0u; e < CHUNK; e++) {
            put(at * m.value_width, piece + e * 4u, total[e] / sum);
        }
    }
    if (piece == 0u) {
        logsumexp[at] = top + log(sum);
    }
}
