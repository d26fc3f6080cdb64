// Which of four keys a query sees; to be included after keys.wgsl.
fn visible(batch: u32, key: u32, seen: vec2<u32>) -> vec4<bool> {
    let keys = key + vec4<u32>(0u, 1u, 2u, 3u);
    let within = (keys >= vec4<u32>(seen.x)) & (keys < vec4<u32>(seen.y));
    if (m.masked == 0u) {
        return within;
    }
    let at = batch * m.keys + key;
    return within & (vec4<u32>(mask[at], mask[at + 1u], mask[at + 2u], mask[at + 3u]) != vec4<u32>());
}

// What all keys weigh for a query that sees none.
fn blind_weight() -> f32 {
    return select(1.0 / f32(max(m.keys, 1u)), 0.0, m.blind == 2u);
}
