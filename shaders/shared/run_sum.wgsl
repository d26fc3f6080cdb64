// The sum of a run; to be included after runs.wgsl. The sum of every piece after the first lies in `pieces`, at the
// piece's first place / PIECE.
@group(0) @binding(3) var<storage, read> pieces: array<Value>;

fn run_sum(runs: Runs, first: u32, end: u32, col: u32) -> Value {
    var total = piece_sum(runs, first, min(first + PIECE, end), col);
    for (var start = first + PIECE; start < end; start += PIECE) {
        total += pieces[start / PIECE * runs.width + col];
    }
    return total;
}
