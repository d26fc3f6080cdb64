//! What a call of the layer takes and gives.

use crate::graph::{Mode, Var};

/// Scale of the noise on scores.
#[derive(Clone, Copy, Debug)]
pub enum NoiseScale<'g> {
    /// Always the same; 0 switches it off.
    Fixed(f64),
    /// f32 scalar known at run time, so that one plan serves a scale that falls from step to step: feed
    /// `start * schedule.factor(step)` with a [`Schedule`](crate::train::Schedule), such as
    /// `Schedule::Cosine { warmup: 0, total, floor: 0.0 }`.
    PerStep(Var<'g>),
}

impl From<f64> for NoiseScale<'_> {
    fn from(scale: f64) -> Self {
        NoiseScale::Fixed(scale)
    }
}

impl<'g> From<Var<'g>> for NoiseScale<'g> {
    fn from(scale: Var<'g>) -> Self {
        NoiseScale::PerStep(scale)
    }
}

/// Options of one call; `x` has the shape `[.., D]`, most often `[b, n, D]`.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'g> {
    /// Whether dropout acts, and whether batch norm uses the statistics of this batch and keeps them.
    pub mode: Mode,
    /// First of five sites of random numbers.
    pub site: u32,
    /// u32 0/1 `[..]`: tokens that count for batch norm. Without batch norm it changes nothing: tokens do not meet.
    pub input_mask: Option<Var<'g>>,
    /// Scale of Gumbel noise on the products of queries and sub-keys; acts in evaluation too.
    pub gumbel_noise_scale: NoiseScale<'g>,
    /// The noise itself, f32 `[.., heads, 2, num_keys]`; drawn if absent.
    pub gumbel_noise: Option<Var<'g>>,
    /// u32 0/1 `[slots]`: only the values of slots with 1 get a gradient; nothing else changes.
    pub mem_trainable_mask: Option<Var<'g>>,
}

impl<'g> Lookup<'g> {
    /// No masks, no noise.
    pub fn new(mode: Mode, site: u32) -> Self {
        Lookup {
            mode,
            site,
            input_mask: None,
            gumbel_noise_scale: NoiseScale::Fixed(0.0),
            gumbel_noise: None,
            mem_trainable_mask: None,
        }
    }

    /// Adds Gumbel noise of a scale to the scores.
    pub fn gumbel(mut self, scale: impl Into<NoiseScale<'g>>) -> Self {
        self.gumbel_noise_scale = scale.into();
        self
    }

    /// Trains only the values of slots that `mask` (u32 0/1 `[slots]`) marks.
    pub fn trainable(mut self, mask: Var<'g>) -> Self {
        self.mem_trainable_mask = Some(mask);
        self
    }
}

/// What a call read, and where.
#[derive(Clone, Copy, Debug)]
pub struct Recall<'g> {
    /// f32 `[.., D]`.
    pub out: Var<'g>,
    /// u32 `[.., heads, topk]`: slots that were read, by descending score.
    pub slots: Var<'g>,
    /// f32 `[.., heads, topk]`: their gates, before dropout.
    pub gates: Var<'g>,
}
