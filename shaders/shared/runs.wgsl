// Sums over runs of equal keys among hits that are sorted by key. Hit h adds weights[h] values[h / per]; positions[i] is the
// hit that was sorted to place i. To be included after value.wgsl or value_wide.wgsl. A run is cut into pieces of PIECE hits from its start.
const PIECE: u32 = 128u;
override WEIGHTED: bool = false;
struct Runs {
    n: u32,
    width: u32,
    per: u32,
    rows: u32,
}
@group(0) @binding(0) var<storage, read> values: array<Value>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> positions: array<u32>;

// Sum of column `col` over the places start .. end.
fn piece_sum(runs: Runs, start: u32, end: u32, col: u32) -> Value {
    var total = Value();
    for (var i = start; i < end; i++) {
        let hit = positions[i];
        var v = values[hit / runs.per * runs.width + col];
        if (WEIGHTED) {
            v *= weights[hit];
        }
        total += v;
    }
    return total;
}
