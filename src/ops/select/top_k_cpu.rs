//! CPU twin of top-k.

use crate::kernels::{CpuCall, par};
use crate::types::Real;

/// Entries that one thread looks through.
const PIECE: usize = 1 << 17;

/// A float type whose values can be ordered with their indices as integers.
pub(super) trait Ordered: Real {
    /// Orders by descending value, then index.
    type Pair: Ord + Copy + Send;
    /// The pair of a valid entry, and of one that is masked.
    fn pair(self, index: usize) -> Self::Pair;
    fn masked(index: usize) -> Self::Pair;
    fn index(pair: Self::Pair) -> u32;
    fn is_masked(pair: Self::Pair) -> bool;
    /// The `k` least pairs of a row, by index.
    fn by_counting(row: Row<'_, Self>, k: usize) -> Vec<Self::Pair>;
}

macro_rules! ordered {
    ($float:ty, $bits:ty, $pair:ty) => {
        impl Ordered for $float {
            type Pair = $pair;
            #[inline(always)]
            fn pair(self, index: usize) -> $pair {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                let bits = self.to_bits();
                let rank = if bits > SIGN { bits } else { SIGN - 1 - (bits & !SIGN) };
                let rank = if self.is_nan() { <$bits>::MAX - 1 } else { rank };
                <$pair>::from(rank) << 32 | index as $pair
            }
            #[inline(always)]
            fn masked(index: usize) -> $pair {
                <$pair>::from(<$bits>::MAX) << 32 | index as $pair
            }
            fn index(pair: $pair) -> u32 {
                pair as u32
            }
            fn is_masked(pair: $pair) -> bool {
                (pair >> 32) as $bits == <$bits>::MAX
            }
            #[inline(always)]
            fn by_counting(row: Row<'_, Self>, k: usize) -> Vec<$pair> {
                let ranks: Vec<$bits> = match row.mask {
                    [] => row.x.iter().map(|x| (x.pair(0) >> 32) as $bits).collect(),
                    mask => row
                        .x
                        .iter()
                        .zip(mask)
                        .map(|(x, m)| if *m == 0 { <$bits>::MAX } else { (x.pair(0) >> 32) as $bits })
                        .collect(),
                };
                // The largest bar with fewer than k ranks below it, bit by bit; or one with just k.
                let below = |bar: $bits| ranks.iter().map(|r| u32::from(*r < bar)).sum::<u32>() as usize;
                let (mut bar, mut ties) = (0, k);
                for bit in (0..<$bits>::BITS).rev() {
                    let count = below(bar | 1 << bit);
                    if count <= k {
                        bar |= 1 << bit;
                        ties = k - count;
                    }
                    if ties == 0 {
                        break;
                    }
                }
                let mut found = vec![0; ranks.len() + 1];
                let mut n = 0;
                for (i, rank) in ranks.iter().enumerate() {
                    found[n] = <$pair>::from(*rank) << 32 | i as $pair;
                    n += usize::from(*rank < bar);
                }
                found.truncate(n);
                let equal = ranks.iter().enumerate().filter(|(_, rank)| **rank == bar).take(ties);
                found.extend(equal.map(|(i, rank)| <$pair>::from(*rank) << 32 | i as $pair));
                found
            }
        }
    };
}

ordered!(f32, u32, u64);
ordered!(f64, u64, u128);

/// A row, and its mask if it has one.
#[derive(Clone, Copy)]
pub(super) struct Row<'a, T> {
    x: &'a [T],
    mask: &'a [u32],
}

/// Entries that are compared with the bar at a time.
const CHUNK: usize = 32;

impl<'a, T: Ordered> Row<'a, T> {
    #[inline(always)]
    fn pair(&self, i: usize) -> T::Pair {
        match self.mask.get(i) {
            Some(0) => T::masked(i),
            _ => self.x[i].pair(i),
        }
    }

    /// The `k` least pairs of some entries, in any order. Pairs above the k-th of those seen so far are dropped at once, whole
    /// chunks where possible, the others collected and thinned out now and then.
    #[inline(always)]
    fn least(&self, entries: std::ops::Range<usize>, k: usize) -> Vec<T::Pair> {
        let room = (2 * k).max(64);
        let mut kept: Vec<T::Pair> = Vec::with_capacity(room.min(1 << 16));
        let mut bar = None;
        for start in entries.clone().step_by(CHUNK) {
            let chunk = start..(start + CHUNK).min(entries.end);
            // Of what comes later, only what is larger than the value of the bar is before it.
            if let Some((_, Some(value))) = bar
                && !any_above(&self.x[chunk.clone()], value)
            {
                continue;
            }
            for i in chunk {
                let pair = self.pair(i);
                if bar.is_some_and(|(bar, _)| pair > bar) {
                    continue;
                }
                kept.push(pair);
                if kept.len() == room {
                    thin(&mut kept, k);
                    bar = kept.last().map(|bar| (*bar, self.value(*bar)));
                }
            }
        }
        thin(&mut kept, k);
        kept
    }

    /// Value of a pair that is neither masked nor NaN: these are behind all numbers.
    fn value(&self, pair: T::Pair) -> Option<T> {
        let x = self.x[T::index(pair) as usize];
        (!T::is_masked(pair) && x.partial_cmp(&x).is_some()).then_some(x)
    }
}

#[inline(always)]
fn any_above<T: Real>(chunk: &[T], value: T) -> bool {
    match <&[T; CHUNK]>::try_from(chunk) {
        Ok(chunk) => chunk.iter().fold(0, |any, x| any | u32::from(*x > value)) != 0,
        Err(_) => chunk.iter().any(|x| *x > value),
    }
}

/// Keeps the `k` least, the largest of them last.
fn thin<P: Ord + Copy>(kept: &mut Vec<P>, k: usize) {
    if kept.len() > k {
        kept.select_nth_unstable(k - 1);
        kept.truncate(k);
    }
}

/// Up to this many of as many entries are kept in order while a row is read.
const FEW: usize = 16;
const SHORT: usize = 256;
/// Where more than one in so many is chosen, the last of them is found by counting.
const SHARE: usize = 64;

/// The `k` least pairs in order, `k` up to [`FEW`]: `f(place, pair)`.
fn few<P: Ord + Copy>(pairs: impl Iterator<Item = P>, k: usize, mut f: impl FnMut(usize, P)) {
    let mut kept = [None; FEW];
    let kept = &mut kept[..k];
    let mut bar = None;
    for pair in pairs {
        if bar.is_some_and(|bar| pair > bar) {
            continue;
        }
        // None counts as behind all pairs.
        let place = kept.iter().position(|p| p.is_none_or(|p| pair < p)).unwrap_or(k - 1);
        kept.copy_within(place..k - 1, place + 1);
        kept[place] = Some(pair);
        bar = kept[k - 1];
    }
    kept.iter().enumerate().for_each(|(i, p)| p.iter().for_each(|p| f(i, *p)));
}

/// The `k` least pairs of a long row, its pieces in parallel.
fn of_pieces<T: Ordered>(row: Row<'_, T>, k: usize) -> Vec<T::Pair> {
    let n = row.x.len();
    let mut parts: Vec<Vec<T::Pair>> = vec![Vec::new(); n.div_ceil(PIECE)];
    par::pieces(
        &mut parts,
        1,
        #[inline(always)]
        |p, part| part[0] = row.least(p * PIECE..n.min((p + 1) * PIECE), k),
    );
    let mut best = parts.concat();
    thin(&mut best, k);
    best
}

/// Runs the twin: input 0 the rows, input 1 the mask if `masked`.
pub(super) fn run<T: Ordered>(call: &mut CpuCall<'_, T>, k: usize, masked: bool) {
    let (_, n) = call.inputs[0].shape.rows();
    let x = call.f(0);
    let mask = if masked { call.u(1) } else { &[] };
    let row = |row: usize| {
        let entries = row * n..(row + 1) * n;
        Row { x: &x[entries.clone()], mask: mask.get(entries).unwrap_or_default() }
    };
    let indices = call.take_u(1);
    par::rows(
        indices,
        k,
        n,
        #[inline(always)]
        |r, out| {
            let row = row(r);
            if k <= FEW && n <= SHORT {
                return few((0..n).map(|i| row.pair(i)), k, |place, pair| out[place] = T::index(pair));
            }
            let mut best = match n {
                _ if n > PIECE => of_pieces(row, k),
                _ if n <= SHARE * k => T::by_counting(row, k),
                _ => row.least(0..n, k),
            };
            best.sort_unstable();
            out.iter_mut().zip(best).for_each(|(out, pair)| *out = T::index(pair));
        },
    );
    let indices = &*indices;
    par::rows(call.out(0), k, k, |r, out| {
        let row = row(r);
        for (out, &i) in out.iter_mut().zip(&indices[r * k..]) {
            *out = if row.mask.get(i as usize) == Some(&0) { T::LOWEST } else { row.x[i as usize] };
        }
    });
}
