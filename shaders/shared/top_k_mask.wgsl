// The rank of an entry, with a mask of the shape of the rows; to be included after top_k.wgsl.
override MASKED: bool = false;
@group(0) @binding(1) var<storage, read> mask: array<u32>;

fn rank_at(i: u32) -> u32 {
    if (MASKED) {
        if (mask[i] == 0u) {
            return RANK_MASKED;
        }
    }
    return rank_of(x[i]);
}
