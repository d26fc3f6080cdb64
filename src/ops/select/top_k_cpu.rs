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
}

macro_rules! ordered {
    ($float:ty, $bits:ty, $pair:ty) => {
        impl Ordered for $float {
            type Pair = $pair;
            fn pair(self, index: usize) -> $pair {
                const SIGN: $bits = 1 << (<$bits>::BITS - 1);
                let bits = self.to_bits();
                let rank = if self.is_nan() {
                    <$bits>::MAX - 1
                } else if bits > SIGN {
                    bits
                } else {
                    SIGN - 1 - (bits & !SIGN)
                };
                <$pair>::from(rank) << 32 | index as $pair
            }
            fn masked(index: usize) -> $pair {
                <$pair>::from(<$bits>::MAX) << 32 | index as $pair
            }
            fn index(pair: $pair) -> u32 {
                pair as u32
            }
            fn is_masked(pair: $pair) -> bool {
                (pair >> 32) as $bits == <$bits>::MAX
            }
        }
    };
}

ordered!(f32, u32, u64);
ordered!(f64, u64, u128);

/// The `k` least pairs, in any order. Pairs above the k-th of those seen so far are dropped at once, the others collected
/// and thinned out now and then.
fn least<P: Ord + Copy>(pairs: impl Iterator<Item = P>, k: usize) -> Vec<P> {
    let room = (2 * k).max(64);
    let mut kept: Vec<P> = Vec::with_capacity(room.min(1 << 16));
    let mut bar = None;
    for pair in pairs {
        if bar.is_some_and(|bar| pair > bar) {
            continue;
        }
        kept.push(pair);
        if kept.len() == room {
            kept.select_nth_unstable(k - 1);
            kept.truncate(k);
            bar = kept.last().copied();
        }
    }
    if kept.len() > k {
        kept.select_nth_unstable(k - 1);
        kept.truncate(k);
    }
    kept
}

/// Up to this many are kept in order while a row is read.
const FEW: usize = 16;

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

/// Runs the twin: input 0 the rows, input 1 the mask if `masked`.
pub(super) fn run<T: Ordered>(call: &mut CpuCall<'_, T>, k: usize, masked: bool) {
    let (_, n) = call.inputs[0].shape.rows();
    let x = call.f(0);
    let mask = if masked { call.u(1) } else { &[] };
    let pair = |at: usize, i: usize| match mask.get(at) {
        Some(0) => T::masked(i),
        _ => x[at].pair(i),
    };
    let indices = call.take_u(1);
    par::rows(indices, k, n, |row, out| {
        if k <= FEW && n <= PIECE {
            return few((0..n).map(|i| pair(row * n + i, i)), k, |place, pair| out[place] = T::index(pair));
        }
        let mut parts: Vec<Vec<T::Pair>> = vec![Vec::new(); n.div_ceil(PIECE)];
        par::pieces(&mut parts, 1, |p, part| {
            let range = p * PIECE..n.min((p + 1) * PIECE);
            part[0] = least(range.map(|i| pair(row * n + i, i)), k);
        });
        let mut best = if parts.len() == 1 { parts.swap_remove(0) } else { least(parts.into_iter().flatten(), k) };
        best.sort_unstable();
        out.iter_mut().zip(best).for_each(|(out, pair)| *out = T::index(pair));
    });
    let indices = &*indices;
    par::rows(call.out(0), k, k, |row, out| {
        for (out, &i) in out.iter_mut().zip(&indices[row * k..]) {
            let at = row * n + i as usize;
            *out = if T::is_masked(pair(at, i as usize)) { T::LOWEST } else { x[at] };
        }
    });
}
