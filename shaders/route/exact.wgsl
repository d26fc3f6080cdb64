// The fixed point of the coordinate descent with constant e: sum_j exp(min(s_j + a, 0) / e) = k, with a = d - p and p the
// ceil(k)-th largest score. The set C of clipped scores {(s - p) + d > 0} is found by repetition from {s > p}.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/row.wgsl"
// #include "shared/scores.wgsl"
// #include "shared/digits.wgsl"
struct Meta {
    rows: u32,
    n: u32,
    masked: u32,
    counts: u32,
    passes: u32,
    e: f32,
}
@group(0) @binding(2) var<storage, read> counts: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<storage, read_write> solution: array<f32>;
@group(0) @binding(5) var<uniform> m: Meta;

// The rank-th largest score (from 1).
fn ranked(start: u32, n: u32, lane: u32, lid: u32, rank: u32) -> f32 {
    var prefix = 0u;
    var known = 0u;
    var rest = rank;
    for (var round = 0u; round < 8u; round++) {
        let shift = 28u - 4u * round;
        clear_column(lid);
        count_digits(start + lane, start + n, shift, known, prefix, lid);
        sum_columns(lid);
        let found = digit_of(rest, lid);
        prefix |= found.x << shift;
        known |= 15u << shift;
        rest = found.y;
        if (LANES > 1u) {
            workgroupBarrier();
        }
    }
    return score_of(prefix);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let r = row_of(workgroup_index(wid, wn), lid);
    let inside = r.row < m.rows;
    let n = select(0u, m.n, inside);
    let start = r.row * m.n;
    let k = counts[select(0u, r.row * m.counts, inside)];
    var found = 0u;
    for (var i = r.lane; i < n; i += LANES) {
        found += select(0u, 1u, takes_part(start + i));
    }
    let valid = row_sum(f32(found), lid);
    // Rows with a count inside (0, valid) have something to solve; the others skip the work but not the barriers.
    let open = k > 0.0 && k < valid;
    let p = ranked(start, select(0u, n, open), r.lane, lid, u32(ceil(clamp(k, 1.0, max(valid, 1.0)))));

    var d = 0.0;
    var clipped = 0.0;
    var done = !open;
    for (var round = 0u; round < m.passes; round++) {
        let end = select(n, 0u, done);
        var above = 0u;
        var total = 0.0;
        var block = 0.0;
        var filled = 0u;
        for (var i = r.lane; i < end; i += LANES) {
            if (takes_part(start + i)) {
                let x = score(start + i) - p;
                // In the first pass d is 0: what lies above p is clipped.
                if (x + d > 0.0) {
                    above += 1u;
                } else {
                    block += exp(clamp(x, FLOOR * m.e, 80.0 * m.e) / m.e);
                    filled += 1u;
                    if (filled == 64u) {
                        total += block;
                        block = 0.0;
                        filled = 0u;
                    }
                }
            }
        }
        total = row_sum(total + block, lid);
        let now = row_sum(f32(above), lid);
        if (!done) {
            done = (round > 0u && now == clipped) || (round > 1u && now < clipped) || now >= k;
            if (!done) {
                clipped = now;
                d = m.e * (log(k - now) - log(max(total, 1e-37)));
            }
        }
    }

    // k of all: everything is clipped, also where scores are lowest.
    let all = k >= valid && k > 0.0;
    let pair = select(vec2<f32>(p, d), vec2<f32>(0.0, 1.6e38), !open);
    for (var i = r.lane; i < n; i += LANES) {
        let value = soft(start + i, pair.x, pair.y, m.e);
        y[start + i] = select(0.0, value, open || all);
    }
    if (inside && r.lane == 0u) {
        solution[2u * r.row] = pair.x;
        solution[2u * r.row + 1u] = pair.y;
    }
}
