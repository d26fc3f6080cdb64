// Soft top-k by coordinate descent as a scalar recurrence: a_t = e_t (log k - logsumexp(min(s, -a_{t-1}) / e_t)), then
// y = exp(min(s + a_T, 0) / e_end). The trace of a row is a_1 .. a_T, then c_1 .. c_T = #{s > -a_{t-1}}.
// #include "shared/descent.wgsl"
// #include "shared/grid.wgsl"
// #include "shared/numerics.wgsl"
// #include "shared/row.wgsl"
// #include "shared/scores.wgsl"
@group(0) @binding(2) var<storage, read> counts: array<f32>;
@group(0) @binding(3) var<storage, read> schedule: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> trace: array<f32>;
@group(0) @binding(6) var<uniform> m: Meta;

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
    let writes = inside && r.lane == 0u;
    let k = counts[select(0u, r.row * m.counts, inside)];
    let log_k = log(max(k, 1e-20));

    var top = -BOUND;
    var found = 0u;
    for (var i = r.lane; i < n; i += LANES) {
        if (takes_part(start + i)) {
            top = max(top, score(start + i));
            found += 1u;
        }
    }
    top = row_max(top, lid);
    let valid = row_sum(f32(found), lid);

    var a = 0.0;
    // The result's place holds exp((s - center) / around) until the result comes.
    var center = 0.0;
    var around = 0.0;
    for (var t = 0u; t < m.iterations; t++) {
        let e = schedule[t];
        var clipped = 0.0;
        var next = 0.0;
        if (t == 0u && m.relu == 0u) {
            next = e * (log_k - log(max(valid, 1.0)));
        } else {
            let x = min(top, -a);
            let fresh = e != around || abs(x - center) > REACH * e;
            if (fresh) {
                center = x;
                around = e;
            }
            let level = weight(x, center, e);
            var above = 0u;
            var total = 0.0;
            // Blocks, so that a long row does not add small terms to a large sum.
            for (var head = r.lane; head < n; head += 64u * LANES) {
                let end = min(head + 64u * LANES, n);
                var block = 0.0;
                for (var i = head; i < end; i += LANES) {
                    if (fresh) {
                        y[start + i] = power(start + i, center, e);
                    }
                    let w = y[start + i];
                    above += select(0u, 1u, w > level);
                    block += min(w, level);
                }
                total += block;
            }
            total = row_sum(total, lid);
            clipped = row_sum(f32(above), lid);
            next = e * (log_k - log(max(total, 1e-37))) - center;
        }
        a = select(0.0, next, valid > 0.0);
        if (writes) {
            trace[2u * r.row * m.iterations + t] = a;
            trace[(2u * r.row + 1u) * m.iterations + t] = clipped;
        }
    }

    let e = schedule[m.iterations];
    for (var i = r.lane; i < n; i += LANES) {
        let value = soft(start + i, 0.0, a, e);
        y[start + i] = select(0.0, value, k > 0.0);
    }
}
