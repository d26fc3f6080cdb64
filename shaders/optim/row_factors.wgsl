// For the first hit of each run: counts the touch of its row, and gives the factors of a step of that number.
// #include "shared/grid.wgsl"
// #include "shared/optim.wgsl"
// #include "shared/row_update.wgsl"
// Steps are numbered by the touches of each row; otherwise by the steps of all.
override COUNTED: bool = true;
struct Meta {
    n: u32,
    // Of the part of a table that is updated; other numbers name rows of other parts.
    rows: u32,
    max_norm: f32,
    lr_factor: f32,
    ln_beta1: f32,
    ln_beta2: f32,
}
@group(0) @binding(0) var<storage, read> keys: array<u32>;
@group(0) @binding(1) var<storage, read> ends: array<u32>;
@group(0) @binding(2) var<storage, read> lr: array<f32>;
@group(0) @binding(3) var<storage, read> norm_sq: array<f32>;
@group(0) @binding(4) var<storage, read> ok: array<u32>;
@group(0) @binding(5) var<storage, read> progress: array<u32>;
@group(0) @binding(6) var<storage, read_write> counts: array<u32>;
@group(0) @binding(7) var<storage, read_write> updates: array<RowUpdate>;
@group(0) @binding(8) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let hit = workgroup_index(wid, wn) * 64u + lid;
    if (hit >= m.n) {
        return;
    }
    if (ok[0] == 0u || ends[hit] == 0u || keys[hit] >= m.rows) {
        updates[hit].end = 0u;
        return;
    }
    let row = keys[hit];
    var t = progress[0] + 1u;
    if (COUNTED) {
        t = counts[row] + 1u;
        counts[row] = t;
    }
    let rate = lr[0] * m.lr_factor;
    let pace = rate / one_minus_exp(f32(t) * m.ln_beta1);
    let correction = sqrt(one_minus_exp(f32(t) * m.ln_beta2));
    updates[hit] = RowUpdate(row, ends[hit], rate, pace, correction, clip_factor(norm_sq[0], m.max_norm));
}
