//! Options of a routed memory.

use crate::error::{Error, Result};
use crate::models::conditional::HeavyAttentionConfig;
use crate::nn::Storage;
use crate::ops::route::soft_top_k::SoftTopK;

/// How routing tokens look at what came last before they score the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookback {
    /// Newest inputs they see; at most the capacity.
    pub latest: usize,
    /// Number of heads.
    pub heads: usize,
    /// Features of a head.
    pub dim_head: usize,
}

/// Options of a [`RoutedMemory`](super::RoutedMemory).
#[derive(Clone, Debug, PartialEq)]
pub struct RoutedMemoryConfig {
    /// Features D of a token.
    pub dim: usize,
    /// Inputs N that are kept of each sample.
    pub capacity: usize,
    /// Memories k that each route picks for a block.
    pub selected: usize,
    /// Number of heads; a multiple of the routes.
    pub heads: usize,
    /// Features of a head.
    pub dim_head: usize,
    /// Routing tokens, each with a selection of its own for `heads / routes` heads.
    pub routes: usize,
    /// The soft top-k; scores have a deviation of about 1.
    pub how: SoftTopK,
    /// Values are multiplied by 1, with the gradient of the soft scores, instead of by the soft scores.
    pub straight_through: bool,
    /// Scores multiply keys as well as values.
    pub multiply_keys_by_score: bool,
    /// Routing tokens query the newest inputs first, so that what is picked depends on what was read last. They see nothing of
    /// the block itself: its first tokens would learn of its last ones by what is picked. Without it the scores of an
    /// input are the same for all blocks.
    pub lookback: Option<Lookback>,
    /// Positions: a memory lies so far before the block as it is old, but no further than this; keys and queries are turned by
    /// the rotary embedding. Without it memories have no position, as in CoLT5's cross attention: distances up to 250,000
    /// are far beyond what a rotary embedding has seen in training.
    pub max_distance: Option<usize>,
    /// How inputs, or finished keys and values, are stored.
    pub storage: Storage,
    /// For inference: keys and values are made when an input is written. The picked ones need no projection; rows are wider
    /// where 2 heads x features of a head are more than D. Inputs are kept only where routing tokens look back; otherwise only
    /// their scores are, so that a block reads N numbers instead of N rows. Routing and projections get no gradient through
    /// what was stored so.
    pub finished: bool,
    /// Bytes of the largest binding; tables are cut to it.
    pub binding_bytes: u64,
}

impl RoutedMemoryConfig {
    /// Eight heads of 64 features, one route that looks back at up to 64 inputs, single precision, no positions.
    pub fn new(dim: usize, capacity: usize, selected: usize) -> Self {
        RoutedMemoryConfig {
            dim,
            capacity,
            selected,
            heads: 8,
            dim_head: 64,
            routes: 1,
            how: SoftTopK::learnable(),
            straight_through: true,
            multiply_keys_by_score: false,
            lookback: Some(Lookback { latest: capacity.min(64), heads: 8, dim_head: 64 }),
            max_distance: None,
            storage: Storage::F32,
            finished: false,
            binding_bytes: 128 << 20,
        }
    }

    pub(super) fn attention(&self) -> HeavyAttentionConfig {
        HeavyAttentionConfig {
            heads: self.heads,
            dim_head: self.dim_head,
            multiply_keys_by_score: self.multiply_keys_by_score,
            ..HeavyAttentionConfig::new(self.dim)
        }
    }

    /// Options of the attention by which routing tokens look back.
    pub(super) fn routing(&self, back: Lookback) -> HeavyAttentionConfig {
        HeavyAttentionConfig { heads: back.heads, dim_head: back.dim_head, ..HeavyAttentionConfig::new(self.dim) }
    }

    /// Refuses values no module can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, message: String| Err(Error::argument(format!("RoutedMemoryConfig::{what}"), message));
        for (what, value) in [("capacity", self.capacity), ("selected", self.selected)] {
            if value == 0 {
                return refuse(what, "is 0; expected at least 1".into());
            }
        }
        if self.capacity > 1 << 30 {
            return refuse("capacity", format!("is {}; expected at most 2^30", self.capacity));
        }
        if self.max_distance.is_some_and(|d| d > 1 << 30) {
            return refuse("max_distance", "is more than 2^30".into());
        }
        self.attention().check(self.routes, self.max_distance.is_some())?;
        let Some(back) = self.lookback else { return Ok(()) };
        if back.latest == 0 || back.latest > self.capacity {
            let message = format!("sees {} inputs; expected 1 to {}, the capacity", back.latest, self.capacity);
            return refuse("lookback", message);
        }
        self.routing(back).check(1, false)
    }
}
