//! Texts as tokens: files too large for memory, shuffled segments that a resumed run goes on with, read in the background.
//!
//! ```no_run
//! use wgrad::data::{Prefetch, Segments, TokenFile, Width};
//!
//! # fn main() -> wgrad::Result<()> {
//! let file = TokenFile::map("corpus.txt", Width::U8)?;  // any file is a file of bytes
//! let segments = Segments::new(file, 257, 0)?;          // 256 tokens to predict, and one before them
//! let mut batches = Prefetch::new(segments, 8, 4)?;     // [8, 257], four batches ahead
//! let ids = batches.next()?;
//! let position = batches.position();                    // goes into the checkpoint; Segments::seek goes on from there
//! # Ok(())
//! # }
//! ```

mod file;
mod map;
mod prefetch;
mod segments;
mod shuffle;
mod tokenizer;

pub use file::{TokenFile, TokenWriter, Width};
pub use prefetch::Prefetch;
pub use segments::{Position, Segments};
#[cfg(feature = "tokenizers")]
pub use tokenizer::HfTokenizer;
pub use tokenizer::{Bytes, Tokenizer};
