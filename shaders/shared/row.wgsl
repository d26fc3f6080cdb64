// Reductions over a row: by a workgroup of 64 (LANES = 64), or one row an invocation (LANES = 1) where barriers are dear.
override LANES: u32 = 64u;
var<workgroup> partials: array<f32, 64>;

struct Row {
    row: u32,
    lane: u32,
}

fn row_of(group: u32, lid: u32) -> Row {
    if (LANES == 1u) {
        return Row(group * 64u + lid, 0u);
    }
    return Row(group, lid);
}

fn row_sum(x: f32, lid: u32) -> f32 {
    if (LANES == 1u) {
        return x;
    }
    partials[lid] = x;
    workgroupBarrier();
    for (var s = 32u; s > 0u; s >>= 1u) {
        if (lid < s) {
            partials[lid] += partials[lid + s];
        }
        workgroupBarrier();
    }
    let total = partials[0];
    workgroupBarrier();
    return total;
}

fn row_max(x: f32, lid: u32) -> f32 {
    if (LANES == 1u) {
        return x;
    }
    partials[lid] = x;
    workgroupBarrier();
    for (var s = 32u; s > 0u; s >>= 1u) {
        if (lid < s) {
            partials[lid] = max(partials[lid], partials[lid + s]);
        }
        workgroupBarrier();
    }
    let total = partials[0];
    workgroupBarrier();
    return total;
}
