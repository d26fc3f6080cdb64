// exp(score - potentials): 0 to 1, once both potentials of an iteration are known.
@group(0) @binding(2) var<storage, read> u: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec2<f32>>;

fn weight_at(m: Meta, batch: u32, slot: u32, token: u32, slot_step: u32, token_step: u32, token_first: bool) -> f32 {
    if (!visible(m, batch, token)) {
        return 0.0;
    }
    let own = u[(batch * m.steps + slot_step) * m.slots + slot];
    var other = vec2<f32>();
    if (token_step != NONE) {
        other = v[(batch * m.steps + token_step) * m.tokens + token];
    }
    let x = score(m, batch, slot, token);
    // In the order in which the later of the two was made: then its lines sum to 1 whatever the rounding.
    let y = less(less(x, select(own, other, token_first)), select(other, own, token_first));
    return exp(max(y, -104.0));
}
