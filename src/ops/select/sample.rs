//! Drawing tokens from logits, on the device: a composition of top-k, softmax, running sums and the Gumbel-max trick.
//!
//! ```
//! use wgrad::ops::select::Sampling;
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let logits = graph.constant(Tensor::f32([1, 3], vec![0.1, 4.0, 3.9])?);
//! let likeliest = logits.sample(&Sampling::greedy(), 0);
//! let drawn = logits.sample(&Sampling { temperature: 1.0, top_k: Some(2), top_p: None }, 0);
//! let plan = Device::cpu().compile_blocking(&graph, &[("likeliest", likeliest), ("drawn", drawn)])?;
//! plan.run(&Feed::new())?;
//! assert_eq!(plan.read_blocking("likeliest")?.ints(), [1]);
//! assert!(plan.read_blocking("drawn")?.ints()[0] > 0); // one of the two best
//! # Ok(())
//! # }
//! ```

use crate::error::{Error, Result, Where};
use crate::graph::Var;
use crate::types::{Tensor, TensorType};

/// Temperatures below count as this one, so that logits divided by it stay finite.
const COLDEST: f64 = 1e-10;

/// How tokens are drawn from logits. The default draws from their softmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits of the tokens that the filters leave; 0 takes the likeliest token. Finite and not negative.
    pub temperature: f32,
    /// Only the so many likeliest tokens (at least 1).
    pub top_k: Option<usize>,
    /// Only the likeliest tokens, up to and including the one at which the cumulative probability passes this, from 0 to 1
    /// (nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751). Probabilities are those of temperature 1 among the
    /// tokens that `top_k` leaves.
    pub top_p: Option<f32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 1.0, top_k: None, top_p: None }
    }
}

impl Sampling {
    /// The likeliest token, always.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Self::default() }
    }

    /// Refuses values without a meaning: [`Error::Argument`].
    ///
    /// # Errors
    /// [`Error::Argument`] for a temperature that is negative or not finite, a `top_k` of 0, or a `top_p` outside 0 to
    /// 1.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, message: String| Err(Error::argument(format!("Sampling::{what}"), message));
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse("temperature", format!("expected a finite number not below 0, got {}", self.temperature));
        }
        if self.top_k == Some(0) {
            return refuse("top_k", "is 0; expected at least 1, or None for all".into());
        }
        match self.top_p {
            Some(p) if !(0.0..=1.0).contains(&p) => refuse("top_p", format!("expected 0 to 1, got {p}")),
            _ => Ok(()),
        }
    }

    /// Number of tokens that `top_k` leaves, and the probability that `top_p` lets through.
    fn filters(&self) -> (u32, f32) {
        let k = self.top_k.map_or(u32::MAX, |k| u32::try_from(k).unwrap_or(u32::MAX));
        // More than any sum of probabilities, however it rounds.
        (k, self.top_p.unwrap_or(2.0))
    }

    /// The values of [`SamplingVars`] as scalars, in the order of its fields, to feed a plan with.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn tensors(&self) -> Result<[Tensor; 3]> {
        self.check()?;
        let (k, p) = self.filters();
        Ok([Tensor::scalar(self.temperature), Tensor::u32([], vec![k])?, Tensor::scalar(p)])
    }
}

/// [`Sampling`] as variables, so that one plan serves all its values: each is a scalar, or `[.., 1]` with a value for each
/// row of the logits.
#[derive(Clone, Copy, Debug)]
pub struct SamplingVars<'g> {
    /// f32; 0 takes the likeliest token.
    pub temperature: Var<'g>,
    /// u32; at least the vocabulary for all tokens.
    pub top_k: Var<'g>,
    /// f32; 2 for all tokens.
    pub top_p: Var<'g>,
}

impl<'g> SamplingVars<'g> {
    /// The types of scalars, in the order of the fields.
    pub fn types() -> [TensorType; 3] {
        [TensorType::f32([]), TensorType::u32([]), TensorType::f32([])]
    }
}

impl<'g> Var<'g> {
    /// Draws one token a row from logits f32 `[.., n]`, which must be finite (mask with `f32::MIN`): u32 `[..]`.
    ///
    /// Gumbel-max (Maddison et al. 2014, arXiv 1411.0030): the argmax of logits / temperature + noise is a draw from their
    /// softmax. The noise is [`Graph::gumbel`](crate::Graph::gumbel) of the seed and step of the run and of `site`, one
    /// number for each logit, whatever the filters. No gradient. Bad values of `sampling` are kept as [`Error::Argument`].
    #[track_caller]
    pub fn sample(self, sampling: &Sampling, site: u32) -> Var<'g> {
        let _at = self.graph().at(Where::caller());
        let (g, n, shape) = (self.graph(), self.dim(-1), self.shape());
        if let Err(error) = sampling.check().and(self.is_logits()) {
            g.fail(error);
            return g.full_u32([], 0);
        }
        let last = shape.len() - 1;
        let rows = &shape[..last];
        if sampling.temperature == 0.0 {
            return self.argmax(last).reshape(rows);
        }
        let temperature = f64::from(sampling.temperature).max(COLDEST);
        if sampling.top_k.is_none() && sampling.top_p.is_none() {
            return (self / temperature + g.gumbel(shape.clone(), site)).argmax(last).reshape(rows);
        }
        let (top_k, top_p) = sampling.filters();
        let vars = SamplingVars {
            temperature: g.full([], temperature),
            top_k: g.full_u32([], top_k),
            top_p: g.full([], f64::from(top_p)),
        };
        self.sample_with(vars, sampling.top_k.unwrap_or(n), site)
    }

    /// [`sample`](Self::sample) with values known at run time. `most` bounds `top_k`: only so many tokens are looked at; n
    /// for all.
    #[track_caller]
    pub fn sample_with(self, vars: SamplingVars<'g>, most: usize, site: u32) -> Var<'g> {
        let _at = self.graph().at(Where::caller());
        let g = self.graph();
        if let Err(error) = self.is_logits() {
            g.fail(error);
            return g.full_u32([], 0);
        }
        let (shape, n) = (self.shape(), self.dim(-1));
        let last = shape.len() - 1;
        let lowest = f64::from(f32::MIN);
        let top = self.top_k(most.clamp(1, n.max(1)));
        let place = g.iota(top.values.shape(), last);
        let logits = top.values.keep_where(place.lt(vars.top_k), lowest);
        let before = logits.softmax(last).cumsum_exclusive(last);
        // The likeliest token stays whatever the filters say.
        let keep = place.lt(vars.top_k).and(before.le(vars.top_p)).or(place.eq(0));
        let noise = g.gumbel(shape.clone(), site).take_along(top.indices, -1);
        let warm = (top.values / vars.temperature.maximum(COLDEST) + noise).maximum(lowest);
        let score = keep.and(vars.temperature.gt(0.0)).select(warm, logits.keep_where(keep, lowest));
        top.indices.take_along(score.argmax(last), -1).reshape(&shape[..last])
    }

    fn is_logits(self) -> Result<()> {
        let ty = self.ty();
        if ty == TensorType::f32(ty.shape.clone()) && self.dim(-1) > 0 && self.rank() > 0 {
            return Ok(());
        }
        Err(Error::argument("sample", format!("expected logits f32[.., n] with n above 0, got {ty}")))
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let all = [
        Sampling::default(),
        Sampling::greedy(),
        Sampling { temperature: 0.7, top_k: Some(5), top_p: None },
        Sampling { temperature: 1.3, top_k: None, top_p: Some(0.8) },
        Sampling { temperature: 1.0, top_k: Some(300), top_p: Some(0.5) },
    ];
    let shapes: [&[usize]; 4] = [&[301], &[5, 2, 320], &[3, 1_000], &[0, 400]];
    let mut samples = Vec::new();
    for (i, sampling) in all.into_iter().enumerate() {
        for shape in shapes {
            let sample = Sample::new(format!("sample {i} {shape:?}"), [shape], move |_, x| {
                vec![(x[0] * 3.0).sample(&sampling, 8)]
            });
            samples.push(sample.no_gradient());
        }
    }
    let a_row_each = Sample::new("sample_with", [&[4, 9]], |g, x| {
        let column = |step: f64| g.iota([4, 1], 0).to_f32() * step;
        let vars = SamplingVars { temperature: column(0.5), top_k: g.iota([4, 1], 0) * 3, top_p: column(0.4) };
        vec![x[0].sample_with(vars, 9, 3)]
    });
    samples.push(a_row_each.no_gradient());
    samples
}
