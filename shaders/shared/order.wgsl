// The order of top-k as integers: the rank of an entry ascends while its value descends. Bits are compared, not floats, so
// that denormals keep their places whatever a driver does with them. -0 ranks as 0, NaN behind all numbers.
const RANK_NAN: u32 = 0xfffffffeu;
const RANK_MASKED: u32 = 0xffffffffu;

fn rank_of(bits: u32) -> u32 {
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return RANK_NAN;
    }
    if (bits > 0x80000000u) {
        return bits;
    }
    return 0x7fffffffu - (bits & 0x7fffffffu);
}

// Ties go to the lower index, so that no two entries of a row are equal.
fn before(rank: u32, index: u32, other_rank: u32, other_index: u32) -> bool {
    return rank < other_rank || (rank == other_rank && index < other_index);
}
