// Sinkhorn's iteration on blocks of scores [slots, tokens]. A potential is a logarithm of a sum of exponentials, kept as the
// pair (largest exponent, logarithm of the rest), so that large scores lose nothing. Potentials are [batch, step, slot] and
// [batch, step, token].
const NONE: u32 = 0xffffffffu;
struct Meta {
    batches: u32,
    slots: u32,
    tokens: u32,
    steps: u32,
    // A line is a slot (1) or a token (0): what is reduced over is the other.
    by_slot: u32,
    // Iterations whose potentials are used; NONE: those before the first, all 0.
    slot_step: u32,
    token_step: u32,
    masked: u32,
    // Whether the potential of the token is subtracted before that of the slot.
    token_first: u32,
    // Whether the cotangent is added to the values that flow, and whether there are any.
    with_cotangent: u32,
    with_values: u32,
}
@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read> mask: array<u32>;

fn visible(m: Meta, batch: u32, token: u32) -> bool {
    return m.masked == 0u || mask[batch * m.tokens + token] != 0u;
}

fn score(m: Meta, batch: u32, slot: u32, token: u32) -> f32 {
    return scores[(batch * m.slots + slot) * m.tokens + token];
}

fn less(x: f32, potential: vec2<f32>) -> f32 {
    return max(x - potential.x, LOWEST) - potential.y;
}

// Number of lines, and of the entries of one.
fn extents(m: Meta) -> vec2<u32> {
    if (m.by_slot == 1u) {
        return vec2<u32>(m.slots, m.tokens);
    }
    return vec2<u32>(m.tokens, m.slots);
}
