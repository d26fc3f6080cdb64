//! Files of tokens, read in place.

use super::Tokenizer;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a token, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One: texts byte by byte.
    U8,
    /// Two: vocabularies of up to 65,536.
    U16,
    /// Four.
    U32,
}

impl Width {
    /// The smallest one for tokens below `vocabulary`.
    pub fn of(vocabulary: usize) -> Width {
        match vocabulary {
            0..=0x100 => Width::U8,
            0x101..=0x1_0000 => Width::U16,
            _ => Width::U32,
        }
    }

    /// Bytes.
    pub fn bytes(self) -> usize {
        match self {
            Width::U8 => 1,
            Width::U16 => 2,
            Width::U32 => 4,
        }
    }

    fn decode(self, bytes: &[u8], out: &mut Vec<u32>) {
        match self {
            Width::U8 => out.extend(bytes.iter().map(|b| u32::from(*b))),
            Width::U16 => out.extend(bytes.as_chunks().0.iter().map(|b| u32::from(u16::from_le_bytes(*b)))),
            Width::U32 => out.extend(bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b))),
        }
    }
}

fn io(path: &Path, e: &std::io::Error) -> Error {
    Error::Io { path: path.display().to_string(), message: e.to_string() }
}

/// A file of tokens of one width, nothing else in it. It stays on disk: reading asks the system for a range, which its page
/// cache serves like a memory map, and a file that shrinks meanwhile is an error, where a map would end the program. Clones
/// share the open file.
#[derive(Clone, Debug)]
pub struct TokenFile {
    file: Arc<File>,
    path: PathBuf,
    width: Width,
    tokens: u64,
}

impl TokenFile {
    /// Opens a file. Fails if its length is no multiple of the width.
    pub fn open(path: impl AsRef<Path>, width: Width) -> Result<TokenFile> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| io(path, &e))?;
        let bytes = file.metadata().map_err(|e| io(path, &e))?.len();
        let each = width.bytes() as u64;
        if !bytes.is_multiple_of(each) {
            let message =
                format!("{bytes} bytes are no whole tokens of {each}; open it with the width it was written with");
            return Err(Error::Io { path: path.display().to_string(), message });
        }
        Ok(TokenFile { file: Arc::new(file), path: path.to_owned(), width, tokens: bytes / each })
    }

    /// Number of tokens.
    pub fn len(&self) -> u64 {
        self.tokens
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Appends tokens `range` to `out`.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<()> {
        if range.end > self.tokens || range.start > range.end {
            let message = format!("tokens {} to {} of {}", range.start, range.end, self.tokens);
            return Err(Error::argument("token file", message));
        }
        let each = self.width.bytes();
        let mut bytes = vec![0; (range.end - range.start) as usize * each];
        read_at(&self.file, &mut bytes, range.start * each as u64).map_err(|e| io(&self.path, &e))?;
        self.width.decode(&bytes, out);
        Ok(())
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                let rest = bytes;
                (bytes, at) = (&mut rest[n..], at + n as u64);
            }
        }
    }
    Ok(())
}

/// Writes a file of tokens, a piece at a time.
pub struct TokenWriter {
    file: BufWriter<File>,
    path: PathBuf,
    width: Width,
    tokens: u64,
}

impl TokenWriter {
    /// Begins a file, replacing an old one.
    pub fn create(path: impl AsRef<Path>, width: Width) -> Result<TokenWriter> {
        let path = path.as_ref();
        let file = BufWriter::new(File::create(path).map_err(|e| io(path, &e))?);
        Ok(TokenWriter { file, path: path.to_owned(), width, tokens: 0 })
    }

    /// Appends tokens. One that does not fit the width is refused, and nothing of these is written.
    pub fn write(&mut self, tokens: &[u32]) -> Result<()> {
        let each = self.width.bytes();
        if let Some(large) = tokens.iter().find(|t| each < 4 && u64::from(**t) >= 1 << (8 * each)) {
            let message = format!("token {large} does not fit {each} bytes; choose a larger width");
            return Err(Error::argument("token file", message));
        }
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes().into_iter().take(each)).collect();
        self.file.write_all(&bytes).map_err(|e| io(&self.path, &e))?;
        self.tokens += tokens.len() as u64;
        Ok(())
    }

    /// Appends a text file, tokenized line by line with its line ends, and returns the number of tokens. Lines are the unit:
    /// nothing longer than a line stands in memory.
    pub fn tokenize(&mut self, text: impl AsRef<Path>, tokenizer: &dyn Tokenizer) -> Result<u64> {
        let (text, before) = (text.as_ref(), self.tokens);
        let mut lines = BufReader::new(File::open(text).map_err(|e| io(text, &e))?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).map_err(|e| io(text, &e))? > 0 {
            self.write(&tokenizer.encode(&String::from_utf8_lossy(&line))?)?;
            line.clear();
        }
        Ok(self.tokens - before)
    }

    /// Ends the file and opens it for reading.
    pub fn finish(mut self) -> Result<TokenFile> {
        self.file.flush().map_err(|e| io(&self.path, &e))?;
        TokenFile::open(&self.path, self.width)
    }
}
