//! Options of the model.

use super::attention::AttentionBlockConfig;
use super::gate::{GateConfiguration, GateKind};
use super::memory::Compression;
use super::state::StateContainerConfig;
use crate::error::{Error, Result};
use crate::models::long_memory::RoutedMemoryConfig;
use crate::models::parts::{depth_within, within};
use std::collections::BinaryHeap;

/// Which memories a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Lookback {
    /// All of them, so between one block and two: version 0.4 of the package.
    #[default]
    Memory,
    /// Those nearer than a block, as in the paper: versions up to 0.3.2.
    Width,
}

/// Options of a [`BlockRecurrentTransformer`](super::BlockRecurrentTransformer). Layers are numbered from 1.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockRecurrentConfig {
    /// Vocabulary.
    pub num_tokens: usize,
    /// Features of a token.
    pub dim: usize,
    /// Layers.
    pub depth: usize,
    /// Features of a head; even, for the rotary positions.
    pub dim_head: usize,
    /// Query heads; all share one head of keys and values.
    pub heads: usize,
    /// Normalise queries and keys in every layer, not only in those that write states.
    pub all_layers_qk_rmsnorm: bool,
    /// Scale of normalised scores. `None`: one over the square root of `dim_head`; the package takes a scale, 8 by default,
    /// and does not use it.
    pub qk_rmsnorm_scale: Option<f64>,
    /// Inner features of the feed-forward are `int(ff_mult * dim * 2 / 3)`.
    pub ff_mult: f64,
    /// Tokens of a segment: what one call reads at most, a multiple of `block_width`.
    pub max_seq_len: usize,
    /// Tokens of a block.
    pub block_width: usize,
    /// Layers that write states. `None`: the middle one.
    pub recurrent_layers: Option<Vec<usize>>,
    /// For each of `recurrent_layers` the layer that reads its states, itself or one before. `None`: the same.
    pub read_recurrent_layers: Option<Vec<usize>>,
    /// Vectors of a bank of states. `None`: as many as a block has tokens.
    pub num_state_vectors: Option<usize>,
    /// Label that does not count, beside `u32::MAX`.
    pub ignore_index: Option<i64>,
    /// Keep up to half a block of memories in front of the last block's, one made of so many. `None`: only the last block's.
    pub compressed_mem_factor: Option<usize>,
    /// Layers that remember keys and values. `None`: all.
    pub xl_memories_layers: Option<Vec<usize>>,
    /// At the start of a call each layer gets the memory of the layer above, the last that of the first (ERNIE-Doc, Ding et al.
    /// 2020, arXiv 2012.15688): versions up to 0.2.2.
    pub enhanced_recurrence: bool,
    /// What the gate of the states computes.
    pub gate: GateKind,
    /// Where gates stand.
    pub gates: GateConfiguration,
    /// Which memories a token sees.
    pub lookback: Lookback,
    /// A block that is not full replaces the memories too, as in versions up to 0.3.2. States it writes in all.
    pub short_block_memories: bool,
    /// Standard deviation of the first states and of the gate's shares.
    pub init_std: f32,
    /// Names of the states' parameters as in versions up to 0.3.1.
    pub flat_state_names: bool,
    /// A memory of the layers' past inputs, hundreds of thousands of them, of which a router picks a few for each block.
    pub long_memory: Option<LongMemoryLayers>,
    /// Recompute each layer's values in the backward pass instead of keeping them.
    pub recompute: bool,
}

/// Layers that have a [`RoutedMemory`](crate::models::long_memory::RoutedMemory) beside their attention.
#[derive(Clone, Debug, PartialEq)]
pub struct LongMemoryLayers {
    /// The layers, numbered from 1.
    pub layers: Vec<usize>,
    /// The memory of each; its `dim` is that of the model.
    pub memory: RoutedMemoryConfig,
}

impl BlockRecurrentConfig {
    /// The package's defaults, version 0.4.4, for a vocabulary, width and depth.
    pub fn new(num_tokens: usize, dim: usize, depth: usize) -> Self {
        BlockRecurrentConfig {
            num_tokens,
            dim,
            depth,
            dim_head: 64,
            heads: 8,
            all_layers_qk_rmsnorm: false,
            qk_rmsnorm_scale: None,
            ff_mult: 4.0,
            max_seq_len: 1024,
            block_width: 512,
            recurrent_layers: None,
            read_recurrent_layers: None,
            num_state_vectors: None,
            ignore_index: Some(-100),
            compressed_mem_factor: None,
            xl_memories_layers: None,
            enhanced_recurrence: false,
            gate: GateKind::default(),
            gates: GateConfiguration::default(),
            lookback: Lookback::default(),
            short_block_memories: false,
            init_std: 0.1,
            flat_state_names: false,
            long_memory: None,
            recompute: false,
        }
    }

    /// The same with what was different in version 0.3.2.
    pub fn as_0_3_2(self) -> Self {
        BlockRecurrentConfig { lookback: Lookback::Width, short_block_memories: true, init_std: 1.0, ..self }
    }

    /// Inner features of the feed-forward.
    pub fn ff_inner(&self) -> usize {
        (self.ff_mult * self.dim as f64 * 2.0 / 3.0) as usize
    }

    /// Layers that write states, in order.
    pub fn writers(&self) -> Vec<usize> {
        let writers = self.recurrent_layers.clone().unwrap_or_else(|| vec![(self.depth / 2).max(1)]);
        BinaryHeap::from(writers).into_sorted_vec()
    }

    /// Writer and reader of each bank of states, in the order of the writers.
    pub fn banks(&self) -> Vec<(usize, usize)> {
        let writers = self.recurrent_layers.clone().unwrap_or_else(|| self.writers());
        let readers = self.read_recurrent_layers.clone().unwrap_or_else(|| writers.clone());
        writers.into_iter().zip(readers).collect::<BinaryHeap<_>>().into_sorted_vec()
    }

    /// Whether a layer (from 1) remembers keys and values.
    pub fn remembers(&self, layer: usize) -> bool {
        self.xl_memories_layers.as_ref().is_none_or(|layers| layers.contains(&layer))
    }

    /// The long memory of layer `layer` (from 1), if it has one.
    pub fn long_memory(&self, layer: usize) -> Option<&RoutedMemoryConfig> {
        self.long_memory.as_ref().filter(|long| long.layers.contains(&layer)).map(|long| &long.memory)
    }

    /// Number of layers that remember.
    pub fn memories(&self) -> usize {
        (1..=self.depth).filter(|layer| self.remembers(*layer)).count()
    }

    /// Vectors of a bank of states.
    pub fn states(&self) -> usize {
        self.num_state_vectors.unwrap_or(self.block_width)
    }

    /// Rows that a memory has at most.
    pub fn memory_rows(&self) -> usize {
        self.block_width + self.compressed_mem_factor.map_or(0, |_| Compression::capacity(self.block_width))
    }

    /// Attention of layer `layer` (from 1).
    pub(super) fn attention(&self, layer: usize) -> AttentionBlockConfig {
        let writes = self.writers().contains(&layer);
        let qk_rmsnorm = self.all_layers_qk_rmsnorm || writes;
        let states = writes.then(|| StateContainerConfig {
            dim: self.dim,
            num_state_vectors: self.states(),
            dim_head: self.dim_head,
            heads: self.heads,
            qk_rmsnorm,
            qk_rmsnorm_scale: self.qk_rmsnorm_scale,
            gate: self.gate,
            gates: self.gates,
            ff_inner: self.ff_inner(),
            init_std: self.init_std,
        });
        let widths = if self.compressed_mem_factor.is_some() { 3 } else { 2 };
        AttentionBlockConfig {
            dim_head: self.dim_head,
            heads: self.heads,
            qk_rmsnorm,
            qk_rmsnorm_scale: self.qk_rmsnorm_scale,
            positions: Some(widths * self.block_width),
            lookback: self.lookback,
            states,
            state_reads: self.banks().iter().filter(|(_, reader)| *reader == layer).count(),
            flat_state_names: self.flat_state_names,
            ..AttentionBlockConfig::new(self.dim, self.block_width)
        }
    }

    /// Refuses values no model can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the field and says what it may be; [`Error::Limit`] for a matrix with more elements
    /// than a tensor can have.
    pub fn check(&self) -> Result<()> {
        depth_within("BlockRecurrentConfig", self.depth)?;
        for (what, value) in [
            ("num_tokens", self.num_tokens),
            ("dim", self.dim),
            ("depth", self.depth),
            ("dim_head", self.dim_head),
            ("heads", self.heads),
            ("ff_mult", self.ff_inner()),
            ("block_width", self.block_width),
            ("num_state_vectors", self.states()),
            ("max_seq_len", self.max_seq_len),
            ("compressed_mem_factor", self.compressed_mem_factor.unwrap_or(1)),
        ] {
            if value == 0 {
                return refuse(what, "gives 0; expected at least 1");
            }
        }
        if !self.dim_head.is_multiple_of(2) {
            let message = format!("{} is odd; rotary positions turn pairs of features", self.dim_head);
            return refuse("dim_head", message);
        }
        if !self.max_seq_len.is_multiple_of(self.block_width) {
            let message = format!("{} is no multiple of block_width {}", self.max_seq_len, self.block_width);
            return refuse("max_seq_len", message);
        }
        if let Some(factor) = self.compressed_mem_factor.filter(|factor| *factor > self.block_width) {
            let message = format!("{factor} is more than block_width {}: nothing would be kept", self.block_width);
            return refuse("compressed_mem_factor", message);
        }
        if self.qk_rmsnorm_scale.is_some_and(|scale| !scale.is_finite()) {
            return refuse("qk_rmsnorm_scale", "is not finite");
        }
        self.check_layers()?;
        if let Some(long) = &self.long_memory {
            if long.memory.dim != self.dim {
                let message = format!("inputs have {} features, a memory is of {}", self.dim, long.memory.dim);
                return refuse("long_memory", message);
            }
            long.memory.check()?;
        }
        let inner = self.heads.saturating_mul(self.dim_head);
        let reads = 1 + self.banks().len();
        within("BlockRecurrentConfig: token_emb.weight", &[self.num_tokens, self.dim])?;
        within("BlockRecurrentConfig: the attention", &[inner.saturating_mul(reads.max(2)), self.dim])?;
        within("BlockRecurrentConfig: the feed-forward", &[self.ff_inner().saturating_mul(2), self.dim])?;
        within("BlockRecurrentConfig: the positions", &[self.block_width.saturating_mul(3)])?;
        within("BlockRecurrentConfig: the states", &[self.states(), self.dim])
    }

    fn check_layers(&self) -> Result<()> {
        let long = self.long_memory.as_ref().map(|long| long.layers.clone());
        let lists = [
            ("long_memory", &long),
            ("recurrent_layers", &self.recurrent_layers),
            ("read_recurrent_layers", &self.read_recurrent_layers),
            ("xl_memories_layers", &self.xl_memories_layers),
        ];
        for (what, list) in lists {
            let Some(list) = list else { continue };
            if let Some(layer) = list.iter().find(|layer| !(1..=self.depth).contains(layer)) {
                let message = format!("layer {layer} is out of range; expected 1 to {}", self.depth);
                return refuse(what, message);
            }
            let twice = list.iter().enumerate().find(|(i, layer)| list[..*i].contains(layer));
            if let (Some((_, layer)), true) = (twice, what != "read_recurrent_layers") {
                return refuse(what, format!("layer {layer} comes twice; name it once"));
            }
        }
        let Some(readers) = &self.read_recurrent_layers else { return Ok(()) };
        let writers = self.recurrent_layers.clone().unwrap_or_else(|| self.writers());
        if readers.len() != writers.len() {
            let message = format!("{} readers for {} recurrent layers; name one each", readers.len(), writers.len());
            return refuse("read_recurrent_layers", message);
        }
        match writers.iter().zip(readers).find(|(writer, reader)| reader > writer) {
            Some((writer, reader)) => {
                let message = format!("layer {reader} reads what layer {writer} writes; it must not come after it");
                refuse("read_recurrent_layers", message)
            }
            None => Ok(()),
        }
    }
}

fn refuse(what: &str, message: impl Into<String>) -> Result<()> {
    Err(Error::argument(format!("BlockRecurrentConfig::{what}"), message.into()))
}
