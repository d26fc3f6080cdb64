//! What both ways of solving share: which inputs fit, valid scores, and blocks of exponentials.

use crate::error::Refusal;
use crate::graph::Var;
use crate::kernels::CpuCall;
use crate::kernels::vector::two_sums;
use crate::types::{DType, Real, Shape, TensorType};

/// Larger magnitudes count as this one, so that no difference or sum of two overflows in single precision.
pub const BOUND: f64 = 1.5e38;
/// Terms of one sum; longer ones are sums of such sums, so that they lose no digits.
const BLOCK: usize = 2048;
/// Smallest count inside the logarithm.
pub const SMALLEST: f64 = 1e-20;

/// Type of the result and shape of the rows; checks scores, counts and, if there is one, the mask.
pub fn infer(scores: &TensorType, k: &TensorType, mask: Option<&TensorType>) -> Result<(TensorType, Shape), Refusal> {
    scores.require(DType::F32, "scores are floats; convert with to_f32")?;
    k.require(DType::F32, "counts are floats; convert with to_f32")?;
    let Some((_, rows)) = scores.shape.split_last() else {
        return Refusal::shape("scores need at least one dimension");
    };
    if !k.shape.is_empty() && k.shape[..] != *rows {
        return Refusal::shape(format!("k is {}; one for each row is {:?}, one for all a scalar", k.shape, rows));
    }
    if let Some(mask) = mask {
        mask.require(DType::U32, "a mask is u32 0/1")?;
        if mask.shape != scores.shape {
            return Refusal::shape(format!("the mask is {}, the scores are {}", mask.shape, scores.shape));
        }
    }
    Ok((scores.clone(), rows.into()))
}

/// Appends a dimension to a shape of rows.
pub fn per_row(rows: &Shape, n: usize) -> TensorType {
    let mut shape = rows.clone();
    shape.0.push(n);
    TensorType::f32(shape)
}

/// Scores as the kernels see them.
pub fn bounded(scores: Var<'_>) -> Var<'_> {
    scores.maximum(-BOUND).minimum(BOUND)
}

/// Gradient of counts, one per row, in the shape of `k`: summed if one count serves all rows.
#[track_caller]
pub fn like_counts<'g>(dk: Var<'g>, k: Var<'g>) -> Var<'g> {
    if dk.shape() == k.shape() { dk } else { dk.sum_all() }
}

/// The inputs of a CPU call: scores, counts and mask, row by row.
pub struct Rows<'a, T> {
    pub n: usize,
    pub rows: usize,
    scores: &'a [T],
    k: &'a [T],
    mask: Option<&'a [u32]>,
}

impl<'a, T: Real> Rows<'a, T> {
    /// Reads input 0 as scores, `k` and, if there is one, `mask`.
    pub fn new(call: &CpuCall<'a, T>, k: usize, mask: Option<usize>) -> Self {
        let (rows, n) = call.inputs[0].shape.rows();
        Rows { n, rows, scores: call.f(0), k: call.f(k), mask: mask.map(|m| call.u(m)) }
    }

    /// Count of a row.
    pub fn k(&self, row: usize) -> T {
        self.k[if self.k.len() == 1 { 0 } else { row }]
    }

    /// Whether the mask lets an entry in.
    #[inline(always)]
    pub fn unmasked(&self, i: usize) -> bool {
        self.mask.is_none_or(|m| m[i] != 0)
    }

    /// Whether an entry takes part: unmasked and a number.
    #[inline(always)]
    pub fn takes_part(&self, i: usize) -> bool {
        self.unmasked(i) && !is_nan(self.scores[i])
    }

    /// A score within the bounds.
    #[inline(always)]
    pub fn score(&self, i: usize) -> T {
        bound(self.scores[i])
    }

    /// Scores of a row that take part.
    #[inline(always)]
    pub fn valid(&self, row: usize) -> Vec<T> {
        let entries = row * self.n..(row + 1) * self.n;
        let own = &self.scores[entries.clone()];
        if self.mask.is_none() && !own.iter().any(|s| is_nan(*s)) {
            return own.iter().map(|s| bound(*s)).collect();
        }
        entries.filter(|i| self.takes_part(*i)).map(|i| self.score(i)).collect()
    }

    /// Scores of a row; what takes no part is above all others, so that no gradient is taken from it.
    #[inline(always)]
    pub fn all(&self, row: usize) -> Vec<T> {
        let entries = row * self.n..(row + 1) * self.n;
        entries.map(|i| if self.takes_part(i) { self.score(i) } else { T::of(f64::INFINITY) }).collect()
    }

    /// Writes a solved row: `exp(f(score))` where a score takes part, 0 where it is masked, NaN where it is NaN.
    #[inline(always)]
    pub fn write(&self, row: usize, y: &mut [T], f: impl Fn(T) -> T) {
        let entries = row * self.n..(row + 1) * self.n;
        for (y, &s) in y.iter_mut().zip(&self.scores[entries.clone()]) {
            let solved = f(bound(s)).exp();
            *y = if is_nan(s) { s } else { solved };
        }
        if let Some(mask) = self.mask {
            y.iter_mut().zip(&mask[entries]).for_each(|(y, m)| *y = if *m == 0 { T::ZERO } else { *y });
        }
    }

    /// Rows that one thread takes at a time, if an entry costs this many visits.
    pub fn grain(&self, visits: usize) -> usize {
        ((1 << 14) / (self.n * visits).max(1)).max(1)
    }
}

/// A score within the bounds.
#[inline(always)]
fn bound<T: Real>(score: T) -> T {
    score.max(T::of(-BOUND)).min(T::of(BOUND))
}

#[inline(always)]
pub fn is_nan<T: Real>(x: T) -> bool {
    x.partial_cmp(&x).is_none()
}

/// The smaller of two numbers, in a form that vectorises.
#[inline(always)]
pub fn lesser<T: Real>(a: T, b: T) -> T {
    if a < b { a } else { b }
}

/// Sums of `exp(exponent)` and of how many entries are counted, of `f(s) = (exponent, counted)`; an exponent of `T::LOWEST`
/// adds nothing.
#[inline(always)]
pub fn exp_total<T: Real>(scores: &[T], f: impl Fn(T) -> (T, bool)) -> (T, T) {
    let (mut total, mut count) = (T::ZERO, T::ZERO);
    for part in scores.chunks(BLOCK) {
        let [terms, counted] = two_sums(part, |s| {
            let (exponent, counted) = f(s);
            [exponent.exp(), if counted { T::ONE } else { T::ZERO }]
        });
        total += terms;
        count += counted;
    }
    (total, count)
}
