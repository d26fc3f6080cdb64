//! The text to learn: a file, or this repository's own sources and docs.

use std::path::{Path, PathBuf};

use wgrad::data::{Segments, TokenFile, Width};
use wgrad::{Error, Result};

/// Endings of the files that count as sources and docs.
const ENDINGS: &[&str] = &["rs", "wgsl", "md", "ts", "toml"];

/// Bytes to learn from.
pub struct Corpus {
    file: TokenFile,
    /// Where they come from, for people.
    pub origin: String,
}

impl Corpus {
    /// A file of any size.
    pub fn file(path: &Path) -> Result<Self> {
        Ok(Corpus { file: TokenFile::map(path, Width::U8)?, origin: path.display().to_string() })
    }

    /// The sources and docs below a folder, in the order of their paths.
    pub fn sources(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(root, &mut files);
        files.sort();
        let mut bytes = Vec::new();
        for path in &files {
            let read = std::fs::read(path);
            bytes.extend(read.map_err(|e| Error::Io { path: path.display().to_string(), message: e.to_string() })?);
            bytes.push(b'\n');
        }
        let file = TokenFile::in_memory(bytes, Width::U8)?;
        Ok(Corpus { file, origin: format!("{} files of this repository", files.len()) })
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.file.len()
    }

    /// Pieces of `length` bytes in an order drawn by the seed.
    pub fn segments(&self, length: usize, seed: u64) -> Result<Segments> {
        if (length as u64) > self.len() {
            let (origin, len) = (&self.origin, self.len());
            let message = format!("{origin} has {len} bytes, a training piece needs {length}; give a longer text");
            return Err(Error::argument("text", message));
        }
        Segments::new(self.file.clone(), length, seed)
    }
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
