//! The text to learn: a file, or this repository's own sources and docs.

use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::{Error, Result, Tensor};

/// Endings of the files that count as sources and docs.
const ENDINGS: &[&str] = &["rs", "wgsl", "md", "ts", "toml"];

/// Bytes to learn from.
pub struct Corpus {
    bytes: Vec<u8>,
    /// Where they come from, for people.
    pub origin: String,
}

impl Corpus {
    /// Reads a file.
    pub fn file(path: &Path) -> Result<Self> {
        Ok(Corpus { bytes: read(path)?, origin: path.display().to_string() })
    }

    /// Reads the sources and docs below a folder, in the order of their paths.
    pub fn sources(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(root, &mut files);
        files.sort();
        let mut bytes = Vec::new();
        for path in &files {
            bytes.extend(read(path)?);
            bytes.push(b'\n');
        }
        Ok(Corpus { bytes, origin: format!("{} files of this repository", files.len()) })
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// `batch` pieces of `length` bytes for a step. They depend on seed and step only, so a resumed run goes on exactly
    /// where the first one stopped.
    pub fn batch(&self, batch: usize, length: usize, seed: u64, step: u64) -> Result<Tensor> {
        let Some(last) = self.bytes.len().checked_sub(length) else {
            let message = format!(
                "{} has {} bytes, a training piece needs {length}; give a longer text",
                self.origin,
                self.len()
            );
            return Err(Error::argument("text", message));
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut ids = Vec::with_capacity(batch * length);
        for _ in 0..batch {
            let start = rng.random_range(0..=last as u64) as usize;
            ids.extend(self.bytes[start..start + length].iter().map(|b| u32::from(*b)));
        }
        Tensor::u32([batch, length], ids)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::Io { path: path.display().to_string(), message: e.to_string() })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules", "dist", "pkg", "fixtures"].contains(&name.as_str())
            {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|e| ENDINGS.iter().any(|k| e == *k)) {
            files.push(path);
        }
    }
}
