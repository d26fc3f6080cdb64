//! Soft top-k: scores in `[0, 1]` that add up to about `k` and are near 1 for the `k` largest inputs.
//!
//! The entropy-smoothed top-k `max_y <s, y> + eps H(y)` over `0 <= y <= 1`, `sum y = k`, has the solution
//! `y_j = exp(min(s_j + a, 0) / eps)`, where one number `a` a row makes the sum right. The routers of CoLT5 (Ainslie et al.
//! 2023, arXiv 2303.09752) find it by coordinate descent (Wright 2015, arXiv 1502.04759; for selection Qian et al. 2022, arXiv
//! 2211.01267) with epsilon scaling (Schmitzer 2019, arXiv 1610.06519; Lei et al. 2023, arXiv 2304.04947). Both the iteration
//! and its fixed point are here:
//!
//! ```text
//! a_t = eps_t (ln k - logsumexp_j(min(s_j, -a_{t-1}) / eps_t)),   eps_{t+1} = max(eps_t decay, eps)
//! y_j = exp(min(s_j + a_T, 0) / eps_{T+1})                        iterated; the first exponents are 0, or min(s_j, 0) / eps_1
//! sum_j exp(min(s_j + a, 0) / eps) = k                            exact: a is the solution
//! ```

mod composed;
mod differentiable;
mod exact;
mod grad;
mod iterations;
mod long;
mod powers;
mod rows;
mod samples;

pub use differentiable::{DifferentiableTopK, SoftSelection};
pub use exact::EXACT;
pub use grad::{DESCENT_GRAD, DESCENT_WEIGHTS};
pub use iterations::DESCENT;
pub use long::{DESCENT_LONG, EXACT_LONG};
pub use samples::samples;

use crate::error::{Error, Where};
use crate::graph::{Graph, Var};
use crate::types::{DType, Tensor};

/// How scores become a soft top-k.
///
/// With [`Exact`](Self::Exact) the entries of a row add up to `min(k, valid)` to rounding, whatever the scores, and a common
/// shift of the scores changes nothing; entries whose score is exactly 1 have gradient 0. [`Iterations`](Self::Iterations)
/// is what the published routers compute: after `n` iterations the sum may be far from `k` (with the published settings and
/// 32,768 scores of deviation 22.6 some 3,000 entries are exactly 1 where 1,152 were asked for), so it serves old
/// checkpoints and comparisons.
#[derive(Clone, Debug, PartialEq)]
pub enum SoftTopK {
    /// Coordinate descent, `n` iterations.
    Iterations {
        /// Number of iterations, 1 to 2^20.
        n: usize,
        /// Final epsilon, above 0, in units of the scores.
        eps: f64,
        /// First epsilon; none, or one below `eps`, is `eps`.
        eps_init: Option<f64>,
        /// Factor on epsilon after each iteration, down to `eps`.
        eps_decay: f64,
        /// First dual variable.
        start: Start,
    },
    /// The fixed point of the iteration with constant `eps`, to rounding.
    Exact {
        /// Epsilon, above 0, in units of the scores: the width of the transition from 0 to 1.
        eps: f64,
    },
}

/// First dual variable `b` of the coordinate descent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// `b = -s`, so that the first iteration does not look at the scores: CoLT5-attention from 0.9 on.
    Scores,
    /// `b = -max(s, 0)`: CoLT5-attention 0.2 and 0.3.
    Relu,
}

/// Iterations at most: their schedule is a list.
const MOST: usize = 1 << 20;
/// Epsilon at most: its products with logarithms and counts are numbers in f32.
const LARGEST: f64 = 1e30;

impl SoftTopK {
    /// `n` iterations with constant `eps`.
    pub fn iterations(n: usize, eps: f64) -> Self {
        SoftTopK::Iterations { n, eps, eps_init: None, eps_decay: 1.0, start: Start::Scores }
    }

    /// The fixed point at `eps`.
    pub fn exact(eps: f64) -> Self {
        SoftTopK::Exact { eps }
    }

    /// The defaults of CoLT5-attention 0.9 and later: 20 iterations, epsilon from 4 by factors of 0.7 to 0.03.
    pub fn reference() -> Self {
        SoftTopK::iterations(20, 0.03).scaled(4.0, 0.7)
    }

    /// For routers that are to learn: the fixed point at epsilon 1, for scores of deviation about 1. Cosines of tokens and a
    /// routing direction of width `dim`, times `sqrt(dim)`, have that deviation while the direction is independent of
    /// the tokens.
    ///
    /// Only entries below 1 pass gradient. Of 1,024 tokens selected from 32,768, 99.9 % do so here (measured, with soft
    /// scores that add up to 1,024); still 57 % when training has made the scores four times as wide. With
    /// [`reference`](Self::reference) on raw products of width 512 none does: some 3,100 entries are exactly 1, and the router
    /// stays as it was initialised. Let the soft scores add up to the number of selected tokens (ratio 1): with more, more
    /// of the selected ones saturate.
    pub fn learnable() -> Self {
        SoftTopK::exact(1.0)
    }

    /// Epsilon scaling: begins at `eps_init` and multiplies by `eps_decay` after each iteration. The fixed point needs
    /// none, so [`Exact`](Self::Exact) stays as it is.
    pub fn scaled(mut self, init: f64, decay: f64) -> Self {
        if let SoftTopK::Iterations { eps_init, eps_decay, .. } = &mut self {
            (*eps_init, *eps_decay) = (Some(init), decay);
        }
        self
    }

    /// Starts the iteration at another dual variable. The fixed point has no start.
    pub fn starting(mut self, at: Start) -> Self {
        if let SoftTopK::Iterations { start, .. } = &mut self {
            *start = at;
        }
        self
    }

    /// What is wrong with the numbers, if anything.
    pub(crate) fn fault(&self) -> Option<String> {
        let positive = |eps: f64| (eps as f32).is_normal() && eps > 0.0 && eps <= LARGEST;
        match *self {
            SoftTopK::Exact { eps } | SoftTopK::Iterations { eps, .. } if !positive(eps) => {
                Some(format!("eps is {eps}; it must be above 0 and at most {LARGEST:e}"))
            }
            SoftTopK::Iterations { n: 0, .. } => Some("0 iterations; at least one is needed".to_owned()),
            SoftTopK::Iterations { n, .. } if n > MOST => Some(format!("{n} iterations; at most {MOST} are allowed")),
            SoftTopK::Iterations { eps_init: Some(e), .. } if !(0.0..=LARGEST).contains(&e) => {
                Some(format!("eps_init is {e}; it must be from 0 to {LARGEST:e}"))
            }
            SoftTopK::Iterations { eps_decay, .. } if !eps_decay.is_finite() || eps_decay < 0.0 => {
                Some(format!("eps_decay is {eps_decay}; it must be finite and not negative"))
            }
            SoftTopK::Iterations { n, eps, eps_init, eps_decay, .. }
                if eps_decay > 1.0 && schedule(n, eps, eps_init, eps_decay).iter().any(|e| f64::from(*e) > LARGEST) =>
            {
                Some(format!("eps_decay is {eps_decay}; in {n} iterations epsilon grows beyond all numbers"))
            }
            _ => None,
        }
    }
}

/// How many entries of a row are wanted; any real number.
#[derive(Clone, Copy, Debug)]
pub enum SoftCount<'g> {
    /// The same for all rows.
    Fixed(f64),
    /// f32 of the scores' shape without the last axis; differentiable.
    PerRow(Var<'g>),
}

impl From<f64> for SoftCount<'_> {
    fn from(k: f64) -> Self {
        SoftCount::Fixed(k)
    }
}

impl From<usize> for SoftCount<'_> {
    fn from(k: usize) -> Self {
        SoftCount::Fixed(k as f64)
    }
}

impl<'g> From<Var<'g>> for SoftCount<'g> {
    fn from(k: Var<'g>) -> Self {
        SoftCount::PerRow(k)
    }
}

impl<'g> SoftCount<'g> {
    /// As a variable; a fixed count is a scalar in single precision, as the reference rounds it.
    ///
    /// An infinite count counts as the largest number, which is more than any row has entries: its logarithm would be
    /// infinite, and the iterations would subtract infinities.
    fn var(self, graph: &'g Graph) -> Var<'g> {
        let largest = f64::from(f32::MAX);
        match self {
            SoftCount::Fixed(k) => graph.constant(Tensor::scalar(if k > largest { f32::MAX } else { k as f32 })),
            SoftCount::PerRow(k) if k.dtype() == DType::F32 => k.gt(largest).select(largest, k),
            SoftCount::PerRow(k) => k,
        }
    }
}

impl<'g> Var<'g> {
    /// Soft top-k over the last axis: f32 `[.., n] -> [.., n]`, values in `[0, 1]`.
    ///
    /// `k` counts per row and may be any real number: at 0 and below (and NaN) a row is 0, with gradient 0; from the number
    /// of valid entries on, [`SoftTopK::Exact`] gives 1 on all of them, with gradient 0, and the iteration tends to 1. `mask`
    /// (u32 0/1, broadcasts to the scores) marks the valid entries with 1; the others, and rows without any, are 0 with
    /// gradient 0. Scores beyond ±1.5e38 count as ±1.5e38.
    ///
    /// A NaN score takes no part and is NaN in the result: other entries keep their values, other rows also their
    /// gradients, the gradient of its own row is not defined.
    ///
    /// Gradients reach the scores and `k`; where a row has scores exactly on the boundary of saturation they are one-sided.
    /// Kept for the backward pass, beside input and output: 2 numbers a row and iteration, or 2 a row if exact.
    ///
    /// # Errors
    /// `Argument` for an epsilon that is not above 0, no iterations or more than 2^20, or a decay that is negative; `Shape` if
    /// `k` or `mask` do not fit the scores.
    #[track_caller]
    pub fn soft_top_k(self, k: impl Into<SoftCount<'g>>, how: &SoftTopK, mask: Option<Var<'g>>) -> Var<'g> {
        let _at = self.graph().at(Where::caller());
        if let Some(fault) = how.fault() {
            self.graph.fail(Error::argument("soft_top_k", fault));
            return self;
        }
        let k = k.into().var(self.graph);
        let mask = mask.map(|m| if m.shape() == self.shape() { m } else { m.expand(self.shape()) });
        match *how {
            SoftTopK::Exact { eps } => exact::apply(self, k, eps, mask),
            SoftTopK::Iterations { n, eps, eps_init, eps_decay, start } => {
                let schedule = schedule(n, eps, eps_init, eps_decay);
                iterations::apply(self, k, schedule, start, mask)
            }
        }
    }
}

/// Epsilon of each iteration and, last, of the result: decayed once more than used, as the reference does.
fn schedule(n: usize, eps: f64, init: Option<f64>, decay: f64) -> Vec<f32> {
    let first = init.unwrap_or(eps).max(eps);
    std::iter::successors(Some(first), |e| Some((e * decay).max(eps))).take(n + 1).map(|e| e as f32).collect()
}
