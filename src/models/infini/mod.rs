//! Infini-attention transformer (Munkhdalai et al. 2024, arXiv 2404.07143): a causal transformer whose attention layers
//! keep a memory of fixed size of all earlier segments.
//!
//! Parameters carry the names of the PyTorch package `infini-transformer-pytorch`, so its checkpoints load by name.
//!
//! ```
//! use wgrad::models::infini::{InfiniConfig, InfiniTransformer, SegmentLoss};
//! use wgrad::train::{AdamW, Trainer};
//! use wgrad::{Device, Tensor, TensorType, graph::Mode};
//! # fn main() -> wgrad::Result<()> {
//! let config = InfiniConfig { heads: 2, dim_head: 4, ..InfiniConfig::new(32, 8, 1) };
//! let model = InfiniTransformer::new(config)?;
//! let mut trainer = Trainer::builder(&Device::cpu(), model.init(1), AdamW::default()).compile_blocking(|graph, p| {
//!     let ids = graph.input("ids", TensorType::u32([2, 13])); // 12 tokens and the last label
//!     let cut = SegmentLoss { segment_length: 4, ..SegmentLoss::default() };
//!     model.segment_loss(p, ids, cut, Mode::Train)
//! })?;
//! trainer.step(&[("ids", &Tensor::u32([2, 13], (0..26).collect())?)])?;
//! println!("{}", trainer.loss_blocking()?);
//! # Ok(())
//! # }
//! ```

mod attention;
mod cache;
mod generate;
mod memory;
mod segments;
mod stream;
mod transformer;

pub use crate::models::generation::READ_EVERY;
pub use crate::ops::select::Sampling;
pub use attention::CausalAttention;
pub use cache::Cache;
pub use memory::{FastweightMemory, Memory};
pub use segments::SegmentLoss;
pub use stream::{InfiniStream, StreamPlans};
pub use transformer::InfiniTransformer;

use crate::error::{Error, Result};
use crate::models::parts::{depth_within, within};

/// Which queries and keys reach the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MemoryPath {
    /// Neither rotated nor scaled, as in the paper and since version 0.1.6 of the package.
    #[default]
    Plain,
    /// Rotated, and queries scaled: versions 0.0.x, for their checkpoints.
    Rotated,
}

/// What happens to memories on their way to the next segment. The package's author wished for this and did not build it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EnhancedRecurrence {
    /// Each layer reads its own memory.
    #[default]
    Off,
    /// Layer l reads what layer l + 1 wrote in the segment before, the last layer what the first wrote (ERNIE-Doc, Ding et
    /// al. 2020, arXiv 2012.15688), its heads mixed by a learned row-stochastic matrix.
    Memories,
    /// The same passing down, with heads mixed linearly in keys and values before they are written.
    KeysValues,
}

/// Options of an [`InfiniTransformer`]; defaults are those of the package, version 0.2.1.
#[derive(Clone, Debug, PartialEq)]
pub struct InfiniConfig {
    /// Size of the vocabulary.
    pub num_tokens: usize,
    /// Features of a token.
    pub dim: usize,
    /// Layers.
    pub depth: usize,
    /// Features of a head; even, for the rotary embedding.
    pub dim_head: usize,
    /// Heads.
    pub heads: usize,
    /// Inner features of the feed-forward are `int(ff_mult * dim * 2 / 3)`.
    pub ff_mult: f64,
    /// Dropout of attention probabilities.
    pub attn_dropout: f64,
    /// Dropout after the gated activation of the feed-forward.
    pub ff_dropout: f64,
    /// Write only what the memory does not already return (equation 5).
    pub use_mem_delta_rule: bool,
    /// Learned write strength per token and head; 1 writes nothing, as the package has it.
    pub learned_delta_update: bool,
    /// Initial value of the gates between local attention (sigmoid 1) and memory (sigmoid 0).
    pub head_gate_init_value: f64,
    /// Which queries and keys reach the memory.
    pub memory_path: MemoryPath,
    /// What happens to memories on their way to the next segment.
    pub enhanced_recurrence: EnhancedRecurrence,
    /// Recompute each layer's activations in the backward pass instead of keeping them.
    pub recompute: bool,
}

impl InfiniConfig {
    /// The package's defaults for a vocabulary, width and depth.
    pub fn new(num_tokens: usize, dim: usize, depth: usize) -> Self {
        InfiniConfig {
            num_tokens,
            dim,
            depth,
            dim_head: 128,
            heads: 8,
            ff_mult: 4.0,
            attn_dropout: 0.0,
            ff_dropout: 0.0,
            use_mem_delta_rule: false,
            learned_delta_update: false,
            head_gate_init_value: 10.0,
            memory_path: MemoryPath::Plain,
            enhanced_recurrence: EnhancedRecurrence::Off,
            recompute: false,
        }
    }

    /// Inner features of the feed-forward.
    pub fn ff_inner(&self) -> usize {
        (self.ff_mult * self.dim as f64 * 2.0 / 3.0) as usize
    }

    /// Refuses values no model can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &str, message: String| Err(Error::argument(format!("InfiniConfig::{what}"), message));
        for (what, value) in [
            ("num_tokens", self.num_tokens),
            ("dim", self.dim),
            ("depth", self.depth),
            ("dim_head", self.dim_head),
            ("heads", self.heads),
            ("ff_mult", self.ff_inner()),
        ] {
            if value == 0 {
                return refuse(what, "gives 0; expected at least 1".into());
            }
        }
        if !self.dim_head.is_multiple_of(2) {
            return refuse(
                "dim_head",
                format!("{} is odd; the rotary embedding turns pairs of features", self.dim_head),
            );
        }
        if !self.head_gate_init_value.is_finite() {
            return refuse("head_gate_init_value", format!("{} is not finite", self.head_gate_init_value));
        }
        for (what, p) in [("attn_dropout", self.attn_dropout), ("ff_dropout", self.ff_dropout)] {
            if !(0.0..1.0).contains(&p) {
                return refuse(what, format!("{p} is no probability below 1"));
            }
        }
        depth_within("InfiniConfig", self.depth)?;
        let inner = self.heads.saturating_mul(self.dim_head);
        within("InfiniConfig: token_emb.weight", &[self.num_tokens, self.dim])?;
        within("InfiniConfig: to_qkv.weight", &[3, inner, self.dim])?;
        within("InfiniConfig: the feed-forward", &[2, self.ff_inner(), self.dim])?;
        within("InfiniConfig: the memories of a text", &[inner, self.dim_head])?;
        within("InfiniConfig: the mix of heads", &[self.heads, self.heads])
    }
}
