// Gradients of attention, one output a dispatch, probabilities made again from the logsumexp:
//   p = exp(scale q k^T - logsumexp)    ds = p (g v^T - delta) scale    dq = ds k    dk = ds^T q    dv = p^T g
// An invocation has a row of the output (a query for dq, a key else) and goes over the other side in tiles.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/keys.wgsl"
// #include "shared/attention.wgsl"
const DQ: u32 = 0u;
const DK: u32 = 1u;
const DV: u32 = 2u;
override KIND: u32 = 0u;
override BY_QUERY: bool = true;
@group(0) @binding(5) var<storage, read> g: array<f32>;
// (logsumexp, delta) of every query.
@group(0) @binding(6) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> grad: array<f32>;
@group(0) @binding(8) var<uniform> m: Meta;

// 64 features of a tile's rows: [feature / 4][row]; and the statistics of its queries.
var<workgroup> ct: array<vec4<f32>, 512>;
var<workgroup> st: array<vec2<f32>, TILE>;

fn g4(at: u32, feature: u32) -> vec4<f32> {
    let i = feature + vec4<u32>(0u, 1u, 2u, 3u);
    let p = at + min(i, vec4<u32>(m.value_width - 1u)) * m.g.w;
    return select(vec4<f32>(), vec4<f32>(g[p.x], g[p.y], g[p.z], g[p.w]), i < vec4<u32>(m.value_width));
}

// Four features of a query or of a key, for the scores.
fn score_vector(of_query: bool, batch: u32, heads: vec2<u32>, row: u32, feature: u32) -> vec4<f32> {
    if (of_query) {
        return q4(m.offsets.x + batch * m.q.x + heads.x * m.q.y + row * m.q.z, feature);
    }
    return k4(m.offsets.y + batch * m.k.x + heads.y * m.k.y + row * m.k.z, feature);
}

// Four features of a query's cotangent or of a value.
fn value_vector(of_query: bool, batch: u32, heads: vec2<u32>, row: u32, feature: u32) -> vec4<f32> {
    if (of_query) {
        return g4(m.offsets.w + batch * m.g.x + heads.x * m.g.y + row * m.g.z, feature);
    }
    return v4(m.offsets.z + batch * m.v.x + heads.y * m.v.y + row * m.v.z, feature);
}

// Adds the products of an invocation's features with those of the tile's rows, four rows at a time: each feature is loaded
// once for them. Loops over rows have a bound from run time: some drivers would unroll them all.
fn add_products(x: ptr<function, array<vec4<f32>, CHUNK>>, sums: ptr<function, array<f32, TILE>>, rows: u32) {
    for (var n = 0u; n < rows; n += 4u) {
        var a = vec4<f32>();
        var b = vec4<f32>();
        var c = vec4<f32>();
        var d = vec4<f32>();
        for (var e = 0u; e < vectors(); e++) {
            let f = (*x)[e];
            let at = e * TILE + n;
            a += f * ct[at];
            b += f * ct[at + 1u];
            c += f * ct[at + 2u];
            d += f * ct[at + 3u];
        }
        (*sums)[n] += sum4(a);
        (*sums)[n + 1u] += sum4(b);
        (*sums)[n + 2u] += sum4(c);
        (*sums)[n + 3u] += sum4(d);
    }
}

// Queries [x, y) that see any of the keys [first, last].
fn audience(first: u32, last: u32, count: i32) -> vec2<u32> {
    let lead = count - i32(m.queries);
    var start = 0;
    var end = i32(m.queries);
    if (m.causal == 1u) {
        start = i32(first) - lead;
    } else if (m.window > 0u) {
        start = i32(first) - i32(m.window) + 1 - lead;
    }
    if (m.block > 0u) {
        end = min(end, i32((last / m.block + 2u) * m.block) - lead);
    } else if (m.window > 0u) {
        end = min(end, i32(last) + i32(m.window) - lead);
    }
    return vec2<u32>(u32(max(start, 0)), u32(max(end, 0)));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let rows = select(m.keys, m.queries, BY_QUERY);
    let cols = select(m.queries, m.keys, BY_QUERY);
    let heads = select(m.kv_heads, m.heads, BY_QUERY);
    let width = select(m.width, m.value_width, KIND == DV);
    let ratio = m.heads / m.kv_heads;
    let blocks = (rows + 63u) / 64u;
    let pieces = (width + FEATURES - 1u) / FEATURES;
    var group = workgroup_index(wid, wn);
    let piece = (group % pieces) * FEATURES;
    group = group / pieces;
    let block = (group % blocks) * 64u;
    group = group / blocks;
    let own_head = group % heads;
    let live = group / heads < m.batches;
    let batch = min(group / heads, m.batches - 1u);
    let inside = block + lid < rows;
    let row = min(block + lid, rows - 1u);
    let block_end = min(block + 64u, rows) - 1u;
    let count = key_count(batch);
    let kv_head = select(own_head, own_head / ratio, BY_QUERY);

    // The other side: keys that the block's queries see, or queries that see the block's keys.
    var range = vec2<u32>(interval(block, count).x, interval(block_end, count).y);
    if (!BY_QUERY) {
        range = audience(block, block_end, count);
        // Queries that see nothing may give all values the same weight.
        if (KIND == DV && m.blind == 1u) {
            range = vec2<u32>(0u, cols);
        }
    }
    if (!live) {
        range.y = 0u;
    }
    var total: array<vec4<f32>, CHUNK>;
    var x: array<vec4<f32>, CHUNK>;
    var scores: array<f32, TILE>;
    var slopes: array<f32, TILE>;
    // All query heads that share these keys, in order.
    let turns = select(ratio, 1u, BY_QUERY);
    for (var turn = 0u; turn < turns; turn++) {
        // Head of the queries, head of the keys.
        let pair = vec2<u32>(select(own_head * ratio + turn, own_head, BY_QUERY), kv_head);
        let stat_row = (batch * m.heads + pair.x) * m.queries;
        let own = stats[stat_row + min(row, max(m.queries, 1u) - 1u)];
        for (var tile = range.x - range.x % TILE; tile < range.y; tile += TILE) {
            let span = select(0u, min(TILE, range.y - tile), inside);
            for (var n = 0u; n < min(TILE, span + 3u); n++) {
                scores[n] = 0.0;
                slopes[n] = 0.0;
            }
            if (!BY_QUERY && lid < TILE) {
                st[lid] = stats[stat_row + min(tile + lid, m.queries - 1u)];
            }
            for (var f = 0u; f < m.width; f += FEATURES) {
                for (var n = lid; n < TILE * vectors(); n += 64u) {
                    let col = min(tile + n / vectors(), cols - 1u);
                    let e = n % vectors();
                    ct[e * TILE + n / vectors()] = score_vector(!BY_QUERY, batch, pair, col, f + e * 4u);
                }
                for (var e = 0u; e < vectors(); e++) {
                    x[e] = score_vector(BY_QUERY, batch, pair, row, f + e * 4u);
                }
                workgroupBarrier();
                add_products(&x, &scores, span);
                workgroupBarrier();
            }
            if (KIND != DV) {
                for (var f = 0u; f < m.value_width; f += FEATURES) {
                    for (var n = lid; n < TILE * vectors(); n += 64u) {
                        let col = min(tile + n / vectors(), cols - 1u);
                        let e = n % vectors();
                        ct[e * TILE + n / vectors()] = value_vector(!BY_QUERY, batch, pair, col, f + e * 4u);
                    }
                    for (var e = 0u; e < vectors(); e++) {
                        x[e] = value_vector(BY_QUERY, batch, pair, row, f + e * 4u);
                    }
                    workgroupBarrier();
                    add_products(&x, &slopes, span);
                    workgroupBarrier();
                }
            }
            for (var n = lid; n < TILE * vectors(); n += 64u) {
                let col = min(tile + n / vectors(), cols - 1u);
                let f = piece + n % vectors() * 4u;
                let at = n % vectors() * TILE + n / vectors();
                if (KIND == DV) {
                    ct[at] = value_vector(!BY_QUERY, batch, pair, col, f);
                } else {
                    ct[at] = score_vector(!BY_QUERY, batch, pair, col, f);
                }
            }
            workgroupBarrier();
            for (var n = 0u; n < span; n++) {
                let col = tile + n;
                var stat = own;
                if (!BY_QUERY) {
                    stat = st[n];
                }
                let key = select(row, col, BY_QUERY);
                let seen = interval(select(col, row, BY_QUERY), count);
                let blind = stat.x < 0.5 * LOWEST;
                var weight = 0.0;
                if (KIND == DV && blind) {
                    weight = select(1.0 / f32(m.keys), 0.0, m.blind == 2u);
                } else if (!blind && key >= seen.x && key < seen.y && unmasked(batch, key)) {
                    weight = exp(m.scale * scores[n] - stat.x);
                    if (KIND != DV) {
                        weight *= (slopes[n] - stat.y) * m.scale;
                    }
                }
                scores[n] = weight;
            }
            for (var n = span; n < min(TILE, span + 3u); n++) {
                scores[n] = 0.0;
            }
            for (var n = 0u; n < span; n += 4u) {
                let w = vec4<f32>(scores[n], scores[n + 1u], scores[n + 2u], scores[n + 3u]);
                for (var e = 0u; e < vectors(); e++) {
                    let at = e * TILE + n;
                    total[e] += (w.x * ct[at] + w.y * ct[at + 1u]) + (w.z * ct[at + 2u] + w.w * ct[at + 3u]);
                }
            }
            workgroupBarrier();
        }
    }
    if (!live || !inside) {
        return;
    }
    let at = ((batch * heads + own_head) * rows + row) * width;
    for (var e = 0u; e < vectors(); e++) {
        let f = piece + e * 4u;
        let n = width - min(f, width);
        if (n > 0u) {
            grad[at + f] = total[e].x;
        }
        if (n > 1u) {
            grad[at + f + 1u] = total[e].y;
        }
        if (n > 2u) {
            grad[at + f + 2u] = total[e].z;
        }
        if (n > 3u) {
            grad[at + f + 3u] = total[e].w;
        }
    }
}
