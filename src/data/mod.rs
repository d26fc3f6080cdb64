//! Texts as tokens: files too large for memory, shuffled segments that a resumed run goes on with, read in the background.
//!
//! ```
//! use wgrad::data::{Prefetch, Segments, TokenFile, Width};
//!
//! # fn main() -> wgrad::Result<()> {
//! let text = "So shaken as we are, so wan with care. ".repeat(40);
//! let file = TokenFile::in_memory(text.into_bytes(), Width::U8)?; // or TokenFile::map("corpus.txt", Width::U8)?
//! let segments = Segments::new(file, 33, 0)?; // 32 tokens to predict, and one before them
//! let mut batches = Prefetch::new(segments, 8, 4)?; // four batches ahead
//! assert_eq!(batches.next()?.shape()[..], [8, 33]);
//! let position = batches.position(); // goes into the checkpoint; Segments::seek goes on from there
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
