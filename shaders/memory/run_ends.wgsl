// One past the last place of the run that each place starts, if its key names a row; else 0.
// #include "shared/grid.wgsl"
struct Meta {
    n: u32,
    rows: u32,
}
@group(0) @binding(0) var<storage, read> keys: array<u32>;
@group(0) @binding(1) var<storage, read_write> ends: array<u32>;
@group(0) @binding(2) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    if (i >= m.n) {
        return;
    }
    let key = keys[i];
    let first = i == 0u || keys[max(i, 1u) - 1u] != key;
    var end = 0u;
    if (first && key < m.rows) {
        // Steps that double from the start, then halve: runs are short as a rule.
        var step = 1u;
        end = i + 1u;
        while (end + step <= m.n && keys[min(end + step, m.n) - 1u] == key) {
            end += step;
            step *= 2u;
        }
        while (step > 0u) {
            if (end + step <= m.n && keys[min(end + step, m.n) - 1u] == key) {
                end += step;
            }
            step /= 2u;
        }
    }
    ends[i] = end;
}
