//! From text to tokens and back.

use crate::error::Result;

/// What makes tokens of a text.
pub trait Tokenizer {
    /// Number of different tokens.
    fn vocabulary(&self) -> usize;

    /// Tokens of a text.
    ///
    /// # Errors
    /// What the tokenizer refuses; [`Bytes`] refuses nothing.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// Text of tokens; what is none is replaced by U+FFFD.
    ///
    /// # Errors
    /// What the tokenizer refuses; [`Bytes`] refuses nothing.
    fn decode(&self, tokens: &[u32]) -> Result<String>;
}

/// Every byte is a token.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes;

impl Tokenizer for Bytes {
    fn vocabulary(&self) -> usize {
        256
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        let mut bytes = Vec::with_capacity(tokens.len());
        for token in tokens {
            match u8::try_from(*token) {
                Ok(byte) => bytes.push(byte),
                Err(_) => bytes.extend("\u{fffd}".bytes()),
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(feature = "tokenizers")]
pub use hf::HfTokenizer;

#[cfg(feature = "tokenizers")]
mod hf {
    use super::Tokenizer;
    use crate::error::{Error, Result};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    /// A tokenizer of Hugging Face's `tokenizers`, from its `tokenizer.json`. Special tokens are not added.
    pub struct HfTokenizer {
        inner: tokenizers::Tokenizer,
    }

    impl HfTokenizer {
        /// Opens a `tokenizer.json`. Its truncation and padding are not applied: all of a text becomes tokens, and nothing
        /// else does.
        ///
        /// # Errors
        /// [`Error::Io`](crate::Error::Io) if the file cannot be read or describes no tokenizer, also where the `tokenizers`
        /// crate itself panics.
        pub fn open(path: impl AsRef<Path>) -> Result<HfTokenizer> {
            let path = path.as_ref();
            let failed = |message| Error::Io { path: path.display().to_string(), message };
            let mut inner = guarded(|| tokenizers::Tokenizer::from_file(path)).map_err(failed)?;
            inner.with_padding(None);
            guarded(|| inner.with_truncation(None).map(drop)).map_err(failed)?;
            Ok(HfTokenizer { inner })
        }

        /// A tokenizer that was made otherwise.
        pub fn new(inner: tokenizers::Tokenizer) -> HfTokenizer {
            HfTokenizer { inner }
        }
    }

    /// The crate takes some files for good that it panics at later, and panics at some while it reads them.
    fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
        let caught = catch_unwind(AssertUnwindSafe(f));
        caught
            .unwrap_or_else(|_| Err("the tokenizers crate panicked at what is in this file".into()))
            .map_err(|e| e.to_string())
    }

    fn failed(message: String) -> Error {
        Error::argument("tokenizer", message)
    }

    impl Tokenizer for HfTokenizer {
        fn vocabulary(&self) -> usize {
            self.inner.get_vocab_size(true)
        }

        fn encode(&self, text: &str) -> Result<Vec<u32>> {
            Ok(guarded(|| self.inner.encode(text, false)).map_err(failed)?.get_ids().to_vec())
        }

        fn decode(&self, tokens: &[u32]) -> Result<String> {
            guarded(|| self.inner.decode(tokens, false)).map_err(failed)
        }
    }
}
