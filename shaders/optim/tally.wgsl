// Counts a step as done or skipped, and puts what the host reads after it side by side.
@group(0) @binding(0) var<storage, read> loss: array<u32>;
@group(0) @binding(1) var<storage, read> norm_sq: array<u32>;
@group(0) @binding(2) var<storage, read> ok: array<u32>;
@group(0) @binding(3) var<storage, read_write> progress: array<u32>;
@group(0) @binding(4) var<storage, read_write> report: array<u32>;

@compute @workgroup_size(1)
fn main() {
    let good = ok[0] != 0u;
    let done = progress[0] + select(0u, 1u, good);
    let skipped = progress[1] + select(1u, 0u, good);
    progress[0] = done;
    progress[1] = skipped;
    report[0] = loss[0];
    report[1] = norm_sq[0];
    report[2] = select(0u, 1u, good);
    report[3] = done;
    report[4] = skipped;
}
