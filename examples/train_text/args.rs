//! The options.

use crate::kinds::{Memory, On, at_least_one};
use clap::Parser;
use std::path::{Path, PathBuf};

/// Trains a byte-level language model with a memory.
#[derive(Parser)]
pub struct Args {
    /// Kind of memory
    #[arg(long, value_enum, default_value_t = Memory::Infini)]
    pub memory: Memory,
    /// JSON file that describes the model layer by layer, such as examples/mixed.json, in place of --memory
    #[arg(long, conflicts_with_all = ["memory", "segment_length", "dim", "depth", "heads", "heavy_keys", "pkm_keys"])]
    pub config: Option<PathBuf>,
    /// Text to learn; this repository's own sources and docs if absent
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Steps in total; a resumed run goes on to this number
    #[arg(long, default_value_t = 500)]
    pub steps: u64,
    /// Seed of initial values, batches and dropout; a resumed run keeps that of its checkpoint
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where to run; auto takes a hardware GPU if there is one, else the CPU executor
    #[arg(long, value_enum, default_value_t = On::Auto)]
    pub device: On,
    /// Part of the name of the GPU adapter to use; software drivers are used only when named
    #[arg(long)]
    pub adapter: Option<String>,
    /// Writes one JSON object a step; a resumed run adds to the file
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Where the checkpoint goes; the resumed file if absent, else target/train_text.safetensors
    #[arg(long)]
    pub save: Option<PathBuf>,
    /// Checkpoint to go on from, with the model, batch and learning rate options it was made with
    #[arg(long)]
    pub resume: Option<PathBuf>,
    /// What the sample at the end continues
    #[arg(long, default_value = "    pub fn ")]
    pub prompt: String,
    /// Texts trained on side by side
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub batch: usize,
    /// Segments of a text
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    pub segments: usize,
    /// Bytes of a segment
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    pub segment_length: usize,
    /// Features of a byte; shared out among the heads, an even number each
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub dim: usize,
    /// Layers
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    pub depth: usize,
    /// Earlier bytes that the router picks for each segment; as many as a segment has if absent (with --memory routed)
    #[arg(long, value_parser = at_least_one)]
    pub heavy_keys: Option<usize>,
    /// Sub-keys of each half of a product key: the memory has the square of it as slots (with --memory pkm)
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pub pkm_keys: usize,
    /// Heads
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    pub heads: usize,
    /// Learning rate after warming up
    #[arg(long, default_value_t = 2e-3)]
    pub lr: f64,
    /// Prints the compiled step
    #[arg(long)]
    pub print_plan: bool,
}

impl Args {
    /// Where the checkpoint goes.
    pub fn checkpoint(&self) -> &Path {
        let given = self.save.as_deref().or(self.resume.as_deref());
        given.unwrap_or(Path::new("target/train_text.safetensors"))
    }
}
