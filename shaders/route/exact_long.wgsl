// One step of route/exact for few and long rows: a workgroup takes a piece of a row. It first advances the row's state by
// the counts and sums of its pieces (all workgroups of a row come to the same), then counts or sums its own piece. Steps 0
// to 7 search the start p by digits, the next ones find the clipped set, the last one writes the result.
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
    pieces: u32,
    len: u32,
    step: u32,
}
// What is known of a row after a step.
struct State {
    // Leading digits of p, and the rank of p among the scores that share them.
    prefix: u32,
    rest: u32,
    valid: u32,
    // The clipped set and the d that belongs to it.
    clipped: u32,
    d: f32,
    done: u32,
}
const FIELDS: u32 = 6u;
@group(0) @binding(2) var<storage, read> counts: array<f32>;
// A state for each row and step.
@group(0) @binding(3) var<storage, read_write> states: array<u32>;
// 16 numbers of each piece: counts by digit, or the clipped number and the bits of the sum.
@group(0) @binding(4) var<storage, read> before: array<u32>;
// The same of this step, or the bits of the result.
@group(0) @binding(5) var<storage, read_write> out: array<u32>;
@group(0) @binding(6) var<storage, read_write> solution: array<f32>;
@group(0) @binding(7) var<uniform> m: Meta;

fn state_at(row: u32, step: u32) -> u32 {
    return (row * (m.passes + 9u) + step) * FIELDS;
}

fn load(at: u32) -> State {
    return State(states[at], states[at + 1u], states[at + 2u], states[at + 3u], bitcast<f32>(states[at + 4u]), states[at + 5u]);
}

fn store(at: u32, s: State) {
    states[at] = s.prefix;
    states[at + 1u] = s.rest;
    states[at + 2u] = s.valid;
    states[at + 3u] = s.clipped;
    states[at + 4u] = bitcast<u32>(s.d);
    states[at + 5u] = s.done;
}

// After counts by digit: one more digit of p is known.
fn searched(old: State, k: f32, lid: u32) -> State {
    var s = old;
    if (m.step == 1u) {
        for (var d = 0u; d < 16u; d++) {
            s.valid += digits[d];
        }
        s.rest = u32(ceil(clamp(k, 1.0, max(f32(s.valid), 1.0))));
        s.done = select(1u, 0u, k > 0.0 && k < f32(s.valid));
    }
    let found = digit_of(s.rest, lid);
    s.prefix |= found.x << (32u - 4u * m.step);
    s.rest = found.y;
    return s;
}

// After sums over the scores that are not clipped: the next set, unless it is the last one.
fn advanced(old: State, k: f32, now: u32, total: f32) -> State {
    var s = old;
    let round = m.step - 9u;
    let last = (round > 0u && now == s.clipped) || (round > 1u && now < s.clipped) || f32(now) >= k;
    if (s.done == 0u && last) {
        s.done = 1u;
    }
    if (s.done == 0u) {
        s.clipped = now;
        s.d = m.e * (log(k - f32(now)) - log(max(total, 1e-37)));
    }
    return s;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let group = workgroup_index(wid, wn);
    let inside = group < m.rows * m.pieces;
    let row = min(group / m.pieces, m.rows - 1u);
    let piece = group % m.pieces;
    let first = row * m.n + min(piece * m.len, m.n);
    let end = select(first, row * m.n + min((piece + 1u) * m.len, m.n), inside);
    let k = counts[row * m.counts];

    var s = State(0u, 0u, 0u, 0u, 0.0, 0u);
    if (m.step > 0u) {
        s = load(state_at(row, m.step - 1u));
    }
    if (m.step > 0u && m.step <= 8u) {
        clear_column(lid);
        for (var p = lid; p < m.pieces; p += 64u) {
            for (var d = 0u; d < 16u; d++) {
                tally[d * 64u + lid] += before[16u * (row * m.pieces + p) + d];
            }
        }
        sum_columns(lid);
        s = searched(s, k, lid);
        workgroupBarrier();
    }
    if (m.step > 8u) {
        var above = 0.0;
        var sum = 0.0;
        for (var p = lid; p < m.pieces; p += 64u) {
            let at = 16u * (row * m.pieces + p);
            above += f32(before[at]);
            sum += bitcast<f32>(before[at + 1u]);
        }
        sum = row_sum(sum, lid);
        above = row_sum(above, lid);
        s = advanced(s, k, u32(above), sum);
    }
    if (inside && piece == 0u && lid == 0u) {
        store(state_at(row, m.step), s);
    }

    let open = k > 0.0 && k < f32(s.valid);
    let p = score_of(s.prefix);
    if (m.step < 8u) {
        clear_column(lid);
        // All digits before this one; none in step 0, where a shift by 32 would not do.
        let known = select(~0u << ((32u - 4u * m.step) & 31u), 0u, m.step == 0u);
        count_digits(first + lid, end, 28u - 4u * m.step, known, s.prefix, lid);
        sum_columns(lid);
        if (inside && lid < 16u) {
            out[16u * group + lid] = digits[lid];
        }
    } else if (m.step < 8u + m.passes) {
        var above = 0u;
        var total = 0.0;
        let stop = select(end, first, s.done == 1u);
        for (var i = first + lid; i < stop; i += 64u) {
            if (takes_part(i)) {
                let x = score(i) - p;
                if (x + s.d > 0.0) {
                    above += 1u;
                } else {
                    total += exp(clamp(x, FLOOR * m.e, 80.0 * m.e) / m.e);
                }
            }
        }
        total = row_sum(total, lid);
        let count = row_sum(f32(above), lid);
        if (inside && lid == 0u) {
            out[16u * group] = u32(count);
            out[16u * group + 1u] = bitcast<u32>(total);
        }
    } else {
        let all = k > 0.0 && !open;
        let pair = select(vec2<f32>(0.0, 1.6e38), vec2<f32>(p, s.d), open);
        for (var i = first + lid; i < end; i += 64u) {
            let value = soft(i, pair.x, pair.y, m.e);
            out[i] = bitcast<u32>(select(0.0, value, open || all));
        }
        if (inside && piece == 0u && lid == 0u) {
            solution[2u * row] = pair.x;
            solution[2u * row + 1u] = pair.y;
        }
    }
}
