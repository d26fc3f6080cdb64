// Which keys a query of attention sees: an interval of positions and a mask.
struct Meta {
    batches: u32,
    heads: u32,
    kv_heads: u32,
    queries: u32,
    keys: u32,
    width: u32,
    value_width: u32,
    causal: u32,
    // Positions a query looks back at most (and forward, unless causal), itself included; 0 is no bound.
    window: u32,
    // Not 0: causal by blocks, a query sees its own and the previous block of so many keys. It replaces the window.
    block: u32,
    // Keys of logit 0 and value 0 that follow the last one.
    tail: u32,
    masked: u32,
    // How many runtime key counts there are: 0, 1 or one per batch entry.
    counts: u32,
    // Invocations that share a query in the forward kernel.
    lanes: u32,
    // See VECTORS.
    vectors: u32,
    // A query that sees no key: 0, there is none; 1, it sees all of them alike; 2, it gets zeros.
    blind: u32,
    scale: f32,
    // First elements and strides of q, k, v and the cotangent of the output.
    offsets: vec4<u32>,
    q: vec4<u32>,
    k: vec4<u32>,
    v: vec4<u32>,
    g: vec4<u32>,
}
// Keys that count, of which the last belong to the queries.
fn key_count(batch: u32) -> i32 {
    if (m.counts == 0u) {
        return i32(m.keys);
    }
    return i32(min(counts[min(batch, m.counts - 1u)], 0x3fffffffu));
}

// Keys [x, y) that a query may see, whatever the mask says. Both ends grow with the query.
fn interval(query: u32, count: i32) -> vec2<u32> {
    let p = count - i32(m.queries) + i32(query);
    var start = 0;
    var end = count;
    if (m.causal == 1u) {
        end = min(end, p + 1);
    } else if (m.window > 0u) {
        end = min(end, p + i32(m.window));
    }
    if (m.block > 0u) {
        start = max((p / i32(m.block) - 1) * i32(m.block), 0);
    } else if (m.window > 0u) {
        start = max(p - i32(m.window) + 1, 0);
    }
    return vec2<u32>(u32(start), u32(clamp(end, 0, i32(m.keys))));
}

// How many keys of the tail a query sees.
fn zero_keys(query: u32) -> u32 {
    if (m.tail == 0u) {
        return 0u;
    }
    return min(query + m.window, m.keys + m.tail) - min(query + m.window, m.keys);
}

fn unmasked(batch: u32, key: u32) -> bool {
    return m.masked == 0u || mask[batch * m.keys + key] != 0u;
}
