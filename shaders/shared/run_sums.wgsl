// The sum of each run into the row of a table that its key names, by the invocations of its first place.
@group(0) @binding(4) var<storage, read> keys: array<u32>;
@group(0) @binding(5) var<storage, read> ends: array<u32>;
@group(0) @binding(6) var<storage, read_write> output: array<Value>;
@group(0) @binding(7) var<uniform> m: Runs;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let item = workgroup_index(wid, wn) * 64u + lid;
    let place = item / m.width;
    if (place >= m.n) {
        return;
    }
    let end = ends[place];
    if (end > 0u) {
        let col = item % m.width;
        output[keys[place] * m.width + col] = run_sum(m, place, end, col);
    }
}
