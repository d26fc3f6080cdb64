//! Rows in parallel: rayon natively, one thread in the browser. Pieces are cut by size alone, so results do not
//! depend on the number of threads. Every piece runs compiled for the widest vectors there are: a closure marked
//! `#[inline(always)]`, with what it inlines, is vectorised.

use super::vector::vectorized;

/// Work below this many elements is not worth a second thread.
const GRAIN: usize = 1 << 14;

/// Runs `f` on a thread of the pool, where what it cuts into pieces begins at once.
#[cfg(not(target_arch = "wasm32"))]
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Runs `f`: there is one thread.
#[cfg(target_arch = "wasm32")]
pub fn in_pool<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Calls `f(row, row_elements)` for every row of `n` elements of `out`; `cost` is the work of one row in elements read.
pub fn rows<T: Send>(out: &mut [T], n: usize, cost: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if n == 0 || out.is_empty() {
        return;
    }
    let per_piece = (GRAIN / cost.max(n).max(1)).max(1);
    pieces(
        out,
        n * per_piece,
        #[inline(always)]
        |start, piece| {
            for (i, row) in piece.chunks_mut(n).enumerate() {
                f(start / n + i, row);
            }
        },
    );
}

/// Calls `f(start, piece)` for pieces of `size` elements of `out`.
pub fn pieces<T: Send>(out: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let size = size.max(1);
    let f = |start: usize, piece: &mut [T]| {
        vectorized(
            #[inline(always)]
            || f(start, piece),
        )
    };
    #[cfg(not(target_arch = "wasm32"))]
    if out.len() > size {
        use rayon::prelude::*;
        out.par_chunks_mut(size).enumerate().for_each(|(i, piece)| f(i * size, piece));
        return;
    }
    for (i, piece) in out.chunks_mut(size).enumerate() {
        f(i * size, piece);
    }
}

/// Calls `f(start, pieces)` for pieces of `size` elements of several slices of one length, cut at the same places.
pub fn zipped<const N: usize, T: Send>(outs: [&mut [T]; N], size: usize, f: impl Fn(usize, [&mut [T]; N]) + Sync) {
    let size = size.max(1);
    let f = |start: usize, part: [&mut [T]; N]| {
        vectorized(
            #[inline(always)]
            || f(start, part),
        )
    };
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

/// Calls `f(i, rows)` for every `i` whose `picks[i]` names a row of `width` elements, with that row of several slices.
/// What is picked must ascend; a row that is picked again, or does not exist, is left out.
pub fn picked<const N: usize, T: Send>(
    outs: [&mut [T]; N],
    width: usize,
    picks: &[u32],
    f: impl Fn(usize, [&mut [T]; N]) + Sync + Send,
) {
    let rows = outs.iter().map(|o| o.len()).min().unwrap_or(0).checked_div(width).unwrap_or(0);
    let mut rest = outs;
    let mut next = 0;
    let mut found: Vec<(usize, [&mut [T]; N])> = Vec::new();
    for (i, &row) in picks.iter().enumerate() {
        let row = row as usize;
        if row < next || row >= rows {
            continue;
        }
        let skip = (row - next) * width;
        let taken = rest.each_mut().map(|slice| {
            let (row, after) = std::mem::take(slice).split_at_mut(skip + width);
            *slice = after;
            &mut row[skip..]
        });
        next = row + 1;
        found.push((i, taken));
    }
    let f = |i: usize, rows: [&mut [T]; N]| {
        vectorized(
            #[inline(always)]
            || f(i, rows),
        )
    };
    #[cfg(not(target_arch = "wasm32"))]
    if found.len() * width > GRAIN {
        use rayon::prelude::*;
        found.into_par_iter().with_min_len((GRAIN / width).max(1)).for_each(|(i, rows)| f(i, rows));
        return;
    }
    found.into_iter().for_each(|(i, rows)| f(i, rows));
}

/// Sorts distinct items.
pub fn sort<I: Ord + Send>(items: &mut [I]) {
    #[cfg(not(target_arch = "wasm32"))]
    if items.len() > GRAIN {
        use rayon::prelude::*;
        return items.par_sort_unstable();
    }
    items.sort_unstable();
}

/// Cuts every entry of `entry` elements into pieces of `size` (the last one shorter) and calls `f(number, piece)`;
/// numbers count the pieces of all entries.
pub fn ragged<T: Send>(out: &mut [T], entry: usize, size: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    if entry == 0 || size == 0 {
        return;
    }
    let per_entry = entry.div_ceil(size);
    let f = |number: usize, piece: &mut [T]| {
        vectorized(
            #[inline(always)]
            || f(number, piece),
        )
    };
    #[cfg(not(target_arch = "wasm32"))]
    if out.len() > size {
        use rayon::prelude::*;
        out.par_chunks_mut(entry).enumerate().for_each(|(e, entry)| {
            entry.par_chunks_mut(size).enumerate().for_each(|(i, piece)| f(e * per_entry + i, piece));
        });
        return;
    }
    for (e, entry) in out.chunks_mut(entry).enumerate() {
        for (i, piece) in entry.chunks_mut(size).enumerate() {
            f(e * per_entry + i, piece);
        }
    }
}

/// Two outputs at once: entries of `rows` rows, cut into pieces of `size` rows (the last one shorter). `f(entry, number of
/// the piece within it, piece of a, piece of b)`; each output comes with the elements of one of its rows, not both 0.
pub fn ragged_pair<T: Send>(
    (a, a_row): (&mut [T], usize),
    (b, b_row): (&mut [T], usize),
    rows: usize,
    size: usize,
    f: impl Fn(usize, usize, &mut [T], &mut [T]) + Sync,
) {
    if rows == 0 || size == 0 || b_row == 0 {
        return;
    }
    let entries = b.len() / (rows * b_row);
    let mut pieces: Vec<(usize, usize, &mut [T], &mut [T])> = Vec::new();
    let (mut a, mut b) = (a, b);
    for entry in 0..entries {
        for (number, first) in (0..rows).step_by(size).enumerate() {
            let n = size.min(rows - first);
            let (piece_a, rest_a) = std::mem::take(&mut a).split_at_mut(n * a_row);
            let (piece_b, rest_b) = std::mem::take(&mut b).split_at_mut(n * b_row);
            (a, b) = (rest_a, rest_b);
            pieces.push((entry, number, piece_a, piece_b));
        }
    }
    consume(
        pieces,
        #[inline(always)]
        |(entry, number, a, b)| f(entry, number, a, b),
    );
}

/// Three outputs at once: `entries` entries with `sizes` elements of each. `f(entry, its elements of each)`.
pub fn triples<T: Send>(
    [mut a, mut b, mut c]: [&mut [T]; 3],
    sizes: [usize; 3],
    entries: usize,
    f: impl Fn(usize, [&mut [T]; 3]) + Sync,
) {
    let mut pieces: Vec<(usize, [&mut [T]; 3])> = Vec::with_capacity(entries);
    for entry in 0..entries {
        let (piece_a, rest_a) = std::mem::take(&mut a).split_at_mut(sizes[0]);
        let (piece_b, rest_b) = std::mem::take(&mut b).split_at_mut(sizes[1]);
        let (piece_c, rest_c) = std::mem::take(&mut c).split_at_mut(sizes[2]);
        (a, b, c) = (rest_a, rest_b, rest_c);
        pieces.push((entry, [piece_a, piece_b, piece_c]));
    }
    consume(
        pieces,
        #[inline(always)]
        |(entry, piece)| f(entry, piece),
    );
}

/// Calls `f` for every item, in parallel where threads exist.
pub fn consume<I: Send>(items: Vec<I>, f: impl Fn(I) + Sync + Send) {
    let f = |item: I| {
        vectorized(
            #[inline(always)]
            || f(item),
        )
    };
    #[cfg(not(target_arch = "wasm32"))]
    if items.len() > 1 {
        use rayon::prelude::*;
        items.into_par_iter().for_each(f);
        return;
    }
    items.into_iter().for_each(f);
}
