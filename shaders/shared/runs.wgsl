// Sums over runs of equal keys: keys sorted, values[positions[i]] the row of hit i. A run is cut into pieces of PIECE hits
// from its start; the sum of every piece after the first lies in `partials`, at the piece's first hit / PIECE.
const PIECE: u32 = 128u;
struct Meta {
    n: u32,
    rows: u32,
    width: u32,
}
@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> keys: array<u32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;

// Sum of column `col` over the hits of a run from `start` on, PIECE of them at most.
fn piece_sum(m: Meta, start: u32, col: u32) -> f32 {
    let key = keys[start];
    let end = min(start + PIECE, m.n);
    var total = 0.0;
    for (var i = start; i < end && keys[i] == key; i++) {
        total += values[positions[i] * m.width + col];
    }
    return total;
}
