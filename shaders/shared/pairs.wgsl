// Pairs of entries of two lists [rows, a] and [rows, b]; pair i b + j is entry i with entry j.
struct Meta {
    rows: u32,
    a: u32,
    b: u32,
    k: u32,
    // Entries of the whole second half.
    n: u32,
    candidates: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> x_indices: array<u32>;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read> y_indices: array<u32>;
@group(0) @binding(4) var<storage, read> candidates: array<u32>;
@group(0) @binding(5) var<storage, read_write> sums: array<f32>;
@group(0) @binding(6) var<storage, read_write> indices: array<u32>;
@group(0) @binding(7) var<storage, read_write> pairs: array<u32>;
@group(0) @binding(8) var<uniform> m: Meta;

fn sum_of(row: u32, pair: u32) -> f32 {
    return x[row * m.a + pair / m.b] + y[row * m.b + pair % m.b];
}

fn put(row: u32, place: u32, pair: u32) {
    let at = row * m.k + place;
    sums[at] = sum_of(row, pair);
    indices[at] = x_indices[row * m.a + pair / m.b] * m.n + y_indices[row * m.b + pair % m.b];
    pairs[at] = pair;
}
