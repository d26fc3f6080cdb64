// Half precision in storage, two to a word. Packed by integer arithmetic, to the nearest and to even at ties, so that every
// driver stores the same bits: subnormals become 0, what is too large becomes 65,504, NaN stays.
fn half_bits(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) {
        return sign | 0x7e00u;
    }
    if (size < 0x38800000u) {
        return sign;
    }
    let moved = min(size, 0x477fe000u) - 0x38000000u;
    return sign | min((moved + 0xfffu + ((moved >> 13u) & 1u)) >> 13u, 0x7bffu);
}
