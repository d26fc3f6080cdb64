//! Trains a byte-level language model with a memory on text, saves it and prints a sample.
//!
//! `cargo run --release --example train_text -- --help`

/// A line on the standard output. A reader who leaves early (`| head`) must not cost the run.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($what)*);
    }};
}

mod corpus;
mod job;
mod model;
mod report;

use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};

/// Trains a byte-level language model with a memory.
#[derive(Parser)]
struct Args {
    /// Kind of memory
    #[arg(long, value_enum, default_value_t = Memory::Infini)]
    memory: Memory,
    /// JSON file that describes the model layer by layer, such as examples/mixed.json, in place of --memory
    #[arg(long, conflicts_with_all = ["memory", "segment_length", "dim", "depth", "heads", "heavy_keys", "pkm_keys"])]
    config: Option<PathBuf>,
    /// Text to learn; this repository's own sources and docs if absent
    #[arg(long)]
    text: Option<PathBuf>,
    /// Steps in total; a resumed run goes on to this number
    #[arg(long, default_value_t = 500)]
    steps: u64,
    /// Seed of initial values, batches and dropout; a resumed run keeps that of its checkpoint
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Where to run; auto takes a hardware GPU if there is one, else the CPU executor
    #[arg(long, value_enum, default_value_t = On::Auto)]
    device: On,
    /// Part of the name of the GPU adapter to use; software drivers are used only when named
    #[arg(long)]
    adapter: Option<String>,
    /// Writes one JSON object a step; a resumed run adds to the file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the checkpoint goes; the resumed file if absent, else target/train_text.safetensors
    #[arg(long)]
    save: Option<PathBuf>,
    /// Checkpoint to go on from, with the model, batch and learning rate options it was made with
    #[arg(long)]
    resume: Option<PathBuf>,
    /// What the sample at the end continues
    #[arg(long, default_value = "    pub fn ")]
    prompt: String,
    /// Texts trained on side by side
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    batch: usize,
    /// Segments of a text
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    segments: usize,
    /// Bytes of a segment
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    segment_length: usize,
    /// Features of a byte; shared out among the heads, an even number each
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    dim: usize,
    /// Layers
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    depth: usize,
    /// Earlier bytes that the router picks for each segment; as many as a segment has if absent (with --memory routed)
    #[arg(long, value_parser = at_least_one)]
    heavy_keys: Option<usize>,
    /// Sub-keys of each half of a product key: the memory has the square of it as slots (with --memory pkm)
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    pkm_keys: usize,
    /// Heads
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    heads: usize,
    /// Learning rate after warming up
    #[arg(long, default_value_t = 2e-3)]
    lr: f64,
    /// Prints the compiled step
    #[arg(long)]
    print_plan: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Memory {
    /// Infini-attention: what went by is compressed into a matrix
    Infini,
    /// Conditional routing: a router picks the earlier bytes that are attended to
    Routed,
    /// Block recurrence: state vectors go from segment to segment
    Recurrent,
    /// Product keys: a table of many slots in place of a feed-forward, of which each byte reads a few
    Pkm,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum On {
    Auto,
    Cpu,
    Gpu,
}

/// A count of which there must be one.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1 on".into()),
        Ok(n) => Ok(n),
    }
}

impl Args {
    /// Where the checkpoint goes.
    fn checkpoint(&self) -> &Path {
        let given = self.save.as_deref().or(self.resume.as_deref());
        given.unwrap_or(Path::new("target/train_text.safetensors"))
    }
}

fn main() -> std::process::ExitCode {
    match job::run(&Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}
