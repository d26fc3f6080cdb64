// One iteration of route/descent for few and long rows: a workgroup takes a piece of a row. It first finishes the iteration
// before from the sums of the row's pieces (all workgroups of a row come to the same result), then sums its own piece.
// Step 0 finds the largest score and the number of scores of each piece, step T + 1 writes the result.
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/row.wgsl"
// #include "shared/scores.wgsl"
struct Meta {
    rows: u32,
    n: u32,
    iterations: u32,
    relu: u32,
    masked: u32,
    counts: u32,
    pieces: u32,
    len: u32,
    step: u32,
}
@group(0) @binding(2) var<storage, read> counts: array<f32>;
@group(0) @binding(3) var<storage, read> schedule: array<f32>;
@group(0) @binding(4) var<storage, read_write> trace: array<f32>;
// (largest score, number of scores) of each piece.
// Of each piece (largest score, number of scores), then twice (sum, number of clipped scores, center, epsilon) of an
// iteration: the one before is read, the other one written.
@group(0) @binding(5) var<storage, read_write> pairs: array<f32>;
// exp((s - center) / epsilon) until the result comes.
@group(0) @binding(6) var<storage, read_write> y: array<f32>;
@group(0) @binding(7) var<uniform> m: Meta;

// Where the sums of a piece are after a step.
fn sums_of(group: u32, step: u32) -> u32 {
    return m.rows * m.pieces * (2u + 4u * (step % 2u)) + 4u * group;
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

    if (m.step == 0u) {
        var top = -BOUND;
        var found = 0u;
        for (var i = first + lid; i < end; i += 64u) {
            if (takes_part(i)) {
                top = max(top, score(i));
                found += 1u;
            }
        }
        top = row_max(top, lid);
        let valid = row_sum(f32(found), lid);
        if (inside && lid == 0u) {
            pairs[2u * group] = top;
            pairs[2u * group + 1u] = valid;
        }
    } else {
        let k = counts[row * m.counts];
        let log_k = log(max(k, 1e-20));
        var top = -BOUND;
        var found = 0.0;
        var sum = 0.0;
        var above = 0.0;
        // Iteration t is the one before; the first of the newer start has no sums.
        let t = m.step - 1u;
        let summed = t > 1u - m.relu;
        for (var p = lid; p < m.pieces; p += 64u) {
            let at = row * m.pieces + p;
            top = max(top, pairs[2u * at]);
            found += pairs[2u * at + 1u];
            if (summed) {
                sum += pairs[sums_of(at, t)];
                above += pairs[sums_of(at, t) + 1u];
            }
        }
        top = row_max(top, lid);
        let valid = row_sum(found, lid);
        sum = row_sum(sum, lid);
        above = row_sum(above, lid);
        var center = 0.0;
        var around = 0.0;
        if (summed) {
            center = pairs[sums_of(group, t) + 2u];
            around = pairs[sums_of(group, t) + 3u];
        }
        var a = 0.0;
        if (t > 0u) {
            let e = schedule[t - 1u];
            if (summed) {
                a = e * (log_k - log(max(sum, 1e-37))) - center;
            } else {
                a = e * (log_k - log(max(valid, 1.0)));
            }
            a = select(0.0, a, valid > 0.0);
            if (inside && piece == 0u && lid == 0u) {
                trace[2u * row * m.iterations + t - 1u] = a;
                trace[(2u * row + 1u) * m.iterations + t - 1u] = above;
            }
        }
        if (m.step > m.iterations) {
            for (var i = first + lid; i < end; i += 64u) {
                let value = soft(i, 0.0, a, schedule[m.iterations]);
                y[i] = select(0.0, value, k > 0.0);
            }
        } else {
            let e = schedule[m.step - 1u];
            let x = min(top, -a);
            let fresh = e != around || abs(x - center) > REACH * e;
            if (fresh) {
                center = x;
            }
            let level = weight(x, center, e);
            var total = 0.0;
            var clipped = 0u;
            for (var i = first + lid; i < end; i += 64u) {
                if (fresh) {
                    y[i] = power(i, center, e);
                }
                let w = y[i];
                clipped += select(0u, 1u, w > level);
                total += min(w, level);
            }
            total = row_sum(total, lid);
            let count = row_sum(f32(clipped), lid);
            if (inside && lid == 0u) {
                let at = sums_of(group, m.step);
                pairs[at] = total;
                pairs[at + 1u] = count;
                pairs[at + 2u] = center;
                pairs[at + 3u] = e;
            }
        }
    }
}
