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
    use std::path::Path;

    /// A tokenizer of Hugging Face's `tokenizers`, from its `tokenizer.json`. Special tokens are not added.
    pub struct HfTokenizer {
        inner: tokenizers::Tokenizer,
    }

    impl HfTokenizer {
        /// Opens a `tokenizer.json`.
        ///
        /// # Errors
        /// [`Error::Io`](crate::Error::Io) if the file cannot be read or describes no tokenizer.
        pub fn open(path: impl AsRef<Path>) -> Result<HfTokenizer> {
            let path = path.as_ref();
            let failed = |e: tokenizers::Error| Error::Io { path: path.display().to_string(), message: e.to_string() };
            Ok(HfTokenizer { inner: tokenizers::Tokenizer::from_file(path).map_err(failed)? })
        }

        /// A tokenizer that was made otherwise.
        pub fn new(inner: tokenizers::Tokenizer) -> HfTokenizer {
            HfTokenizer { inner }
        }
    }

    fn failed(e: tokenizers::Error) -> Error {
        Error::argument("tokenizer", e.to_string())
    }

    impl Tokenizer for HfTokenizer {
        fn vocabulary(&self) -> usize {
            self.inner.get_vocab_size(true)
        }

        fn encode(&self, text: &str) -> Result<Vec<u32>> {
            Ok(self.inner.encode(text, false).map_err(failed)?.get_ids().to_vec())
        }

        fn decode(&self, tokens: &[u32]) -> Result<String> {
            self.inner.decode(tokens, false).map_err(failed)
        }
    }
}
