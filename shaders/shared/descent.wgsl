// Coordinate descent of rows. A kernel has `trace`, all a_t of a row and then as many others, and the uniform `m`.
struct Meta {
    rows: u32,
    n: u32,
    iterations: u32,
    // Whether the first exponents are min(s, 0) / e instead of 0.
    relu: u32,
    masked: u32,
    // 1: a count for each row; 0: one for all.
    counts: u32,
    // First of the iterations with the last epsilon.
    tail: u32,
}

// Where iteration t clips, -a_{t-1}, in the row whose trace begins at `at`.
fn level_of(at: u32, t: u32) -> f32 {
    if (t == 0u) {
        return 0.0;
    }
    return -trace[at + t - 1u];
}

// Iteration j, from 0 on, of those with the last epsilon, the highest level first.
fn tail_of(at: u32, j: u32) -> u32 {
    let last = m.iterations - 1u;
    return select(m.tail + j, last - j, level_of(at, last) > level_of(at, m.tail));
}
