//! Rows in parallel: rayon natively, one thread in the browser. Pieces are cut by size alone, so results do not
//! depend on the number of threads.

/// Work below this many elements is not worth a second thread.
const GRAIN: usize = 1 << 14;

/// Calls `f(row, row_elements)` for every row of `n` elements of `out`; `cost` is the work of one row in elements read.
pub fn rows<T: Send>(out: &mut [T], n: usize, cost: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if n == 0 || out.is_empty() {
        return;
    }
    let per_piece = (GRAIN / cost.max(n).max(1)).max(1);
    pieces(out, n * per_piece, |start, piece| {
        for (i, row) in piece.chunks_mut(n).enumerate() {
            f(start / n + i, row);
        }
    });
}

/// Calls `f(start, piece)` for pieces of `size` elements of `out`.
pub fn pieces<T: Send>(out: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let size = size.max(1);
    #[cfg(not(target_arch = "wasm32"))]
    if out.len() > size {
        use rayon::prelude::*;
        out.par_chunks_mut(size)
            .enumerate()
            .for_each(|(i, piece)| f(i * size, piece));
        return;
    }
    for (i, piece) in out.chunks_mut(size).enumerate() {
        f(i * size, piece);
    }
}

/// Calls `f(start, pieces)` for pieces of `size` elements of several slices of one length, cut at the same places.
pub fn zipped<const N: usize, T: Send>(
    outs: [&mut [T]; N],
    size: usize,
    f: impl Fn(usize, [&mut [T]; N]) + Sync,
) {
    let size = size.max(1);
    let len = outs.iter().map(|o| o.len()).min().unwrap_or(0);
    let mut parts = outs.map(|o| o.chunks_mut(size));
    let cut = (0..len.div_ceil(size)).map(|i| {
        let part = parts.each_mut().map(|p| p.next().unwrap_or_default());
        (i * size, part)
    });
    #[cfg(not(target_arch = "wasm32"))]
    if len > size {
        use rayon::prelude::*;
        let all: Vec<_> = cut.collect();
        all.into_par_iter().for_each(|(start, part)| f(start, part));
        return;
    }
    cut.for_each(|(start, part)| f(start, part));
}

/// Calls `f(i)` for every `i` below `n`, in parallel where threads exist; `f` must not depend on order.
pub fn each(n: usize, f: impl Fn(usize) + Sync + Send) {
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        (0..n).into_par_iter().for_each(f);
    }
    #[cfg(target_arch = "wasm32")]
    (0..n).for_each(f);
}

/// Cuts every entry of `entry` elements into pieces of `size` (the last one shorter) and calls `f(number, piece)`;
/// numbers count the pieces of all entries.
pub fn ragged<T: Send>(
    out: &mut [T],
    entry: usize,
    size: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if entry == 0 || size == 0 {
        return;
    }
    let per_entry = entry.div_ceil(size);
    if out.len() <= size {
        return out
            .chunks_mut(size)
            .enumerate()
            .for_each(|(i, piece)| f(i, piece));
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        out.par_chunks_mut(entry)
            .enumerate()
            .for_each(|(e, entry)| {
                entry
                    .par_chunks_mut(size)
                    .enumerate()
                    .for_each(|(i, piece)| f(e * per_entry + i, piece));
            });
    }
    #[cfg(target_arch = "wasm32")]
    for (e, entry) in out.chunks_mut(entry).enumerate() {
        for (i, piece) in entry.chunks_mut(size).enumerate() {
            f(e * per_entry + i, piece);
        }
    }
}
