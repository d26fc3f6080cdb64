//! Exponentials of a row's scores that serve several levels of clipping.

use super::rows::lesser;
use crate::kernels::vector::two_sums;
use crate::types::Real;

/// How far from the center a level may lie, in units of epsilon: farther away, the rounding of exponents would show.
const REACH: f64 = 8.0;
/// Exponents are cut here, above every level.
const CAP: f64 = 16.0;
/// Terms of one sum; longer ones are sums of such sums, so that they lose no digits.
const BLOCK: usize = 2048;

/// `exp((s - center) / e)` of the scores of a row.
pub struct Powers<'a, T> {
    scores: &'a [T],
    powers: &'a mut [T],
    center: T,
    e: T,
}

/// What an iteration sums over a row.
pub struct Sum<T> {
    /// `sum exp((min(s, level) - center) / e)`.
    pub total: T,
    pub center: T,
    /// How many scores lie above the level.
    pub clipped: T,
}

impl<'a, T: Real> Powers<'a, T> {
    /// Room for as many as there are scores; what is in it does not matter.
    pub fn new(scores: &'a [T], powers: &'a mut [T]) -> Self {
        Powers { scores, powers, center: T::ZERO, e: T::ZERO }
    }

    #[inline(always)]
    pub fn sum_below(&mut self, level: T, e: T) -> Sum<T> {
        let inverse = T::ONE / e;
        let far = (level - self.center).abs() > e * T::of(REACH);
        let fresh = far || e != self.e;
        if fresh {
            (self.center, self.e) = (level, e);
        }
        let center = self.center;
        let height = ((level - center) * inverse).exp();
        let (mut total, mut clipped) = (T::ZERO, T::ZERO);
        for (scores, powers) in self.scores.chunks(BLOCK).zip(self.powers.chunks_mut(BLOCK)) {
            if fresh {
                for (power, &s) in powers.iter_mut().zip(scores) {
                    *power = lesser((s - center) * inverse, T::of(CAP)).exp();
                }
            }
            let [sum, above] = two_sums(
                powers,
                #[inline(always)]
                |power| [lesser(power, height), if power > height { T::ONE } else { T::ZERO }],
            );
            total += sum;
            clipped += above;
        }
        Sum { total, center, clipped }
    }
}
