// Radix select of the k-th entry of a row by rank, then index: a stage counts the candidates by 11 bits and narrows the
// bound to one count. Three stages go through the rank, the others through the index, for ties at the bound; they have
// nothing to do once the entries up to the bound are `k`. Counts are integers, so their order does not matter.
const BINS: u32 = 2048u;
struct Bound {
    // Of the last entry chosen: the bits known so far, the others 0.
    rank: u32,
    index: u32,
    // How many of the candidates are to be chosen; 0 once the bound is final.
    want: u32,
}
var<workgroup> bins: array<atomic<u32>, 2048>;
var<workgroup> parts: array<u32, 256>;
var<workgroup> sums: array<u32, 16>;
var<workgroup> found: Bound;

fn shift_of(m: Meta, stage: u32) -> u32 {
    if (stage >= 3u) {
        return (m.stages - 1u - stage) * 11u;
    }
    return select(0u, 21u - stage * 11u, stage < 2u);
}

fn candidate(m: Meta, stage: u32, b: Bound, rank: u32, index: u32) -> bool {
    if (stage == 0u) {
        return true;
    }
    if (stage < 3u) {
        let above = shift_of(m, stage - 1u);
        return (rank >> above) == (b.rank >> above);
    }
    if (stage == 3u) {
        return rank == b.rank;
    }
    let above = shift_of(m, stage - 1u);
    return rank == b.rank && (index >> above) == (b.index >> above);
}

fn bin_of(m: Meta, stage: u32, rank: u32, index: u32) -> u32 {
    let bits = select(rank, index, stage >= 3u) >> shift_of(m, stage);
    // The lowest part of a rank has 10 bits.
    return bits & select(2047u, 1023u, stage == 2u);
}

fn count_entry(m: Meta, stage: u32, b: Bound, rank: u32, index: u32) {
    if (candidate(m, stage, b, rank, index)) {
        atomicAdd(&bins[bin_of(m, stage, rank, index)], 1u);
    }
}

fn clear_bins(lid: u32) {
    for (var q = lid; q < BINS; q += 256u) {
        atomicStore(&bins[q], 0u);
    }
    workgroupBarrier();
}

fn chosen(b: Bound, rank: u32, index: u32) -> bool {
    return !before(b.rank, b.index, rank, index);
}

// The bound after a stage whose wanted entry fell into `bin`, as number `want` of `count`.
fn narrowed(m: Meta, stage: u32, b: Bound, bin: u32, want: u32, count: u32) -> Bound {
    let shift = shift_of(m, stage);
    let bits = bin << shift;
    let all = want == count;
    // All of them: whatever the lower bits are.
    let low = select(0u, (1u << shift) - 1u, all);
    let left = select(want, 0u, all);
    if (stage < 3u) {
        return Bound(b.rank | bits | low, select(0u, 0xffffffffu, all), left);
    }
    return Bound(b.rank, b.index | bits | low, left);
}

// Narrows the bound by what a stage counted. All 256 invocations call it, after a barrier.
fn narrow(m: Meta, stage: u32, b: Bound, lid: u32) -> Bound {
    var total = 0u;
    for (var q = lid * 8u; q < lid * 8u + 8u; q++) {
        total += atomicLoad(&bins[q]);
    }
    parts[lid] = total;
    workgroupBarrier();
    if (lid < 16u) {
        var sum = 0u;
        for (var p = lid * 16u; p < lid * 16u + 16u; p++) {
            sum += parts[p];
        }
        sums[lid] = sum;
    }
    if (lid == 0u) {
        found = b;
    }
    workgroupBarrier();
    var below = 0u;
    for (var s = 0u; s < lid / 16u; s++) {
        below += sums[s];
    }
    for (var p = lid & ~15u; p < lid; p++) {
        below += parts[p];
    }
    if (b.want > below && b.want <= below + total) {
        for (var q = lid * 8u; q < lid * 8u + 8u; q++) {
            let count = atomicLoad(&bins[q]);
            if (b.want > below && b.want <= below + count) {
                found = narrowed(m, stage, b, q, b.want - below, count);
            }
            below += count;
        }
    }
    workgroupBarrier();
    return found;
}
