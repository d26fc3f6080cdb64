// Radix search, four bits a step, for the ranked score of a row: counts by digit in a column of workgroup memory for each
// invocation. Needs shared/row.wgsl and shared/scores.wgsl.
var<workgroup> tally: array<u32, 1024>;
var<workgroup> digits: array<u32, 16>;

// Unsigned integers in the order of the scores.
fn key(s: f32) -> u32 {
    let bits = bitcast<u32>(s);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

fn score_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}

fn clear_column(lid: u32) {
    for (var d = 0u; d < 16u; d++) {
        tally[d * 64u + lid] = 0u;
    }
}

// Counts the digits of scores first, first + LANES, .. below end whose key has the prefix in the bits of `known`.
fn count_digits(first: u32, end: u32, shift: u32, known: u32, prefix: u32, lid: u32) {
    for (var i = first; i < end; i += LANES) {
        if (takes_part(i)) {
            let b = key(score(i));
            if ((b & known) == prefix) {
                tally[((b >> shift) & 15u) * 64u + lid] += 1u;
            }
        }
    }
}

// Adds up the columns of a workgroup, which then all know.
fn sum_columns(lid: u32) {
    if (LANES > 1u) {
        workgroupBarrier();
        if (lid < 16u) {
            var total = 0u;
            for (var i = 0u; i < 64u; i++) {
                total += tally[lid * 64u + i];
            }
            digits[lid] = total;
        }
        workgroupBarrier();
    }
}

fn digit_count(d: u32, lid: u32) -> u32 {
    if (LANES == 1u) {
        return tally[d * 64u + lid];
    }
    return digits[d];
}

// The digit of the rank-th largest score (from 1), and its rank among the scores with that digit.
fn digit_of(rank: u32, lid: u32) -> vec2<u32> {
    var digit = 15u;
    var rest = rank;
    while (digit > 0u && digit_count(digit, lid) < rest) {
        rest -= digit_count(digit, lid);
        digit -= 1u;
    }
    return vec2<u32>(digit, rest);
}
