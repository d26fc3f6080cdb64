// out = softmax(scale q k^T) v by online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867) over tiles of keys in
// workgroup memory, as in FlashAttention (Dao et al. 2022, arXiv 2205.14135): no matrix of scores is stored.
//
// A query is one invocation, or several that share its keys where there are few queries.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/keys.wgsl"
// #include "shared/attention.wgsl"
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<storage, read_write> logsumexp: array<f32>;
@group(0) @binding(7) var<uniform> m: Meta;

// Keys and values of a tile: [feature / 4][key].
var<workgroup> kt: array<vec4<f32>, 512>;
var<workgroup> vt: array<vec4<f32>, 512>;

fn put(at: u32, first: u32, value: vec4<f32>) {
    let n = m.value_width - min(first, m.value_width);
    if (n > 0u) {
        out[at + first] = value.x;
    }
    if (n > 1u) {
        out[at + first + 1u] = value.y;
    }
    if (n > 2u) {
        out[at + first + 2u] = value.z;
    }
    if (n > 3u) {
        out[at + first + 3u] = value.w;
    }
}

// Sum over the lanes of a query.
fn joined(first: u32) -> vec4<f32> {
    var total = vec4<f32>();
    for (var n = first; n < first + m.lanes; n++) {
        total += vt[n];
    }
    return total;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let per_group = 64u / m.lanes;
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
    let row = block + lid / m.lanes;
    let lane = lid % m.lanes;
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
    let zeros = zero_keys(query);
    if (zeros > 0u && lane == 0u) {
        top = 0.0;
        sum = f32(zeros);
    }
    for (var tile = first - first % TILE; tile < last; tile += TILE) {
        // Keys of this invocation. The bound comes from run time: some drivers would unroll all loops over keys.
        let span = min(TILE, last - tile);
        let own = select(0u, (span + m.lanes - 1u - lane) / m.lanes, row < m.queries);
        for (var n = 0u; n < min(TILE, own + 3u); n++) {
            scores[n] = 0.0;
        }
        for (var chunk = 0u; chunk < chunks; chunk++) {
            for (var n = lid; n < TILE * vectors(); n += 64u) {
                let key = min(tile + n / vectors(), m.keys - 1u);
                let e = n % vectors();
                let at = e * TILE + n / vectors();
                kt[at] = k4(k_head + key * m.k.z, chunk * FEATURES + e * 4u);
                if (chunk == 0u) {
                    vt[at] = v4(v_head + key * m.v.z, piece + e * 4u);
                }
            }
            if (chunks > 1u || tile <= first) {
                for (var e = 0u; e < vectors(); e++) {
                    x[e] = q4(q_row, chunk * FEATURES + e * 4u);
                }
            }
            workgroupBarrier();
            // Four keys at a time: each feature of the query is loaded once for them.
            for (var n = 0u; n < own; n += 4u) {
                let c = min((n + vec4<u32>(0u, 1u, 2u, 3u)) * m.lanes + lane, vec4<u32>(TILE - 1u));
                var s0 = vec4<f32>();
                var s1 = vec4<f32>();
                var s2 = vec4<f32>();
                var s3 = vec4<f32>();
                for (var e = 0u; e < vectors(); e++) {
                    let f = x[e];
                    let at = e * TILE;
                    s0 += f * kt[at + c.x];
                    s1 += f * kt[at + c.y];
                    s2 += f * kt[at + c.z];
                    s3 += f * kt[at + c.w];
                }
                scores[n] += sum4(s0);
                scores[n + 1u] += sum4(s1);
                scores[n + 2u] += sum4(s2);
                scores[n + 3u] += sum4(s3);
            }
            if (chunk + 1u < chunks) {
                workgroupBarrier();
            }
        }
        var highest = top;
        for (var n = 0u; n < own; n++) {
            let key = tile + n * m.lanes + lane;
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
        for (var e = 0u; e < vectors(); e++) {
            total[e] *= shrink;
        }
        for (var n = 0u; n < own; n++) {
            scores[n] = select(exp(scores[n] - top), 0.0, scores[n] == LOWEST);
            sum += scores[n];
        }
        for (var n = own; n < min(TILE, own + 3u); n++) {
            scores[n] = 0.0;
        }
        for (var n = 0u; n < own; n += 4u) {
            let c = min((n + vec4<u32>(0u, 1u, 2u, 3u)) * m.lanes + lane, vec4<u32>(TILE - 1u));
            let p = vec4<f32>(scores[n], scores[n + 1u], scores[n + 2u], scores[n + 3u]);
            for (var e = 0u; e < vectors(); e++) {
                let at = e * TILE;
                total[e] += (p.x * vt[at + c.x] + p.y * vt[at + c.y]) + (p.z * vt[at + c.z] + p.w * vt[at + c.w]);
            }
        }
        workgroupBarrier();
    }

    if (m.lanes > 1u) {
        // Lanes of a query bring their sums to one maximum.
        kt[lid] = vec4<f32>(top, sum, 0.0, 0.0);
        workgroupBarrier();
        let base = lid - lane;
        var highest = LOWEST;
        for (var n = base; n < base + m.lanes; n++) {
            highest = max(highest, kt[n].x);
        }
        sum = 0.0;
        for (var n = base; n < base + m.lanes; n++) {
            sum += kt[n].y * exp(max(kt[n].x - highest, -100.0));
        }
        let shrink = exp(max(top - highest, -100.0));
        top = highest;
        // Eight vec4s of every lane at a time.
        for (var half = 0u; half < vectors(); half += 8u) {
            for (var e = 0u; e < vectors(); e++) {
                if (e / 8u == half / 8u) {
                    vt[e % 8u * 64u + lid] = shrink * total[e];
                }
            }
            workgroupBarrier();
            for (var e = 0u; e < vectors(); e++) {
                if (e / 8u == half / 8u) {
                    total[e] = joined(e % 8u * 64u + base);
                }
            }
            workgroupBarrier();
        }
    }

    if (!live || row >= m.queries || lane > 0u) {
        return;
    }
    let at = (batch * m.heads + head) * m.queries + row;
    if (sum == 0.0) {
        // No key is visible: all scores are equally low, and the softmax is uniform; or zeros are asked for.
        let every = select(m.keys, 0u, m.blind == 2u);
        for (var f = piece; f < min(piece + FEATURES, m.value_width); f++) {
            var mean = 0.0;
            for (var key = 0u; key < every; key++) {
                mean += v[v_head + key * m.v.z + f * m.v.w];
            }
            out[at * m.value_width + f] = mean / f32(max(m.keys, 1u));
        }
        top = LOWEST;
        sum = 1.0;
    } else {
        for (var e = 0u; e < vectors(); e++) {
            put(at * m.value_width, piece + e * 4u, total[e] / sum);
        }
    }
    if (piece == 0u) {
        logsumexp[at] = top + log(sum);
    }
}
