//! Files of tokens, read in place.

use super::Tokenizer;
use super::map::Map;
use crate::error::{Error, Result};
use crate::new_file::{NewFile, io};
use std::fs::File;
use std::io::{BufRead, BufReader};
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

/// A file of tokens of one width, nothing else in it. It stays on disk: what is asked for comes from the system's page cache.
/// Clones share the open file.
#[derive(Clone, Debug)]
pub struct TokenFile {
    source: Source,
    path: PathBuf,
    width: Width,
    tokens: u64,
}

/// Where the bytes are.
#[derive(Clone, Debug)]
enum Source {
    /// Read by position.
    File(Arc<File>),
    Map(Map),
    Memory(Arc<[u8]>),
}

impl TokenFile {
    /// Opens a file that is read by position: a copy for each range, and a file that shrinks meanwhile is an error.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened, or its length is no multiple of the width.
    pub fn open(path: impl AsRef<Path>, width: Width) -> Result<TokenFile> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| io(path, &e))?;
        let bytes = file.metadata().map_err(|e| io(path, &e))?.len();
        TokenFile::new(Source::File(Arc::new(file)), path, width, bytes)
    }

    /// Opens a file by a memory map: no call to the system for a range, and no copy but into tokens.
    ///
    /// Nobody may change the file while it is open. One that is cut short makes the system end the program (`SIGBUS`) when
    /// tokens beyond its end are read; [`open`](Self::open) gives an error there. Replacing it by another file of that name
    /// (`rename`) does no harm.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or mapped, or its length is no multiple of the width.
    pub fn map(path: impl AsRef<Path>, width: Width) -> Result<TokenFile> {
        let path = path.as_ref();
        let map = File::open(path).and_then(|file| Map::new(&file)).map_err(|e| io(path, &e))?;
        let bytes = map.bytes().len() as u64;
        TokenFile::new(Source::Map(map), path, width, bytes)
    }

    /// Tokens in memory, in place of a file: little-endian, of one width.
    ///
    /// # Errors
    /// [`Error::Io`] if their number is no multiple of the width.
    pub fn in_memory(bytes: impl Into<Arc<[u8]>>, width: Width) -> Result<TokenFile> {
        let bytes = bytes.into();
        let count = bytes.len() as u64;
        TokenFile::new(Source::Memory(bytes), Path::new("tokens in memory"), width, count)
    }

    fn new(source: Source, path: &Path, width: Width, bytes: u64) -> Result<TokenFile> {
        let each = width.bytes() as u64;
        if !bytes.is_multiple_of(each) {
            let message =
                format!("{bytes} bytes are no whole tokens of {each}; open it with the width it was written with");
            return Err(Error::Io { path: path.display().to_string(), message });
        }
        Ok(TokenFile { source, path: path.to_owned(), width, tokens: bytes / each })
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
    ///
    /// # Errors
    /// [`Error::Argument`] for a range that is reversed or goes beyond the end; [`Error::Io`] if the file cannot be
    /// read.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<()> {
        if range.end > self.tokens || range.start > range.end {
            let message = format!("tokens {} to {} of {}", range.start, range.end, self.tokens);
            return Err(Error::argument("token file", message));
        }
        let each = self.width.bytes();
        let mapped = match &self.source {
            Source::File(file) => {
                let mut bytes = vec![0; (range.end - range.start) as usize * each];
                read_at(file, &mut bytes, range.start * each as u64).map_err(|e| io(&self.path, &e))?;
                self.width.decode(&bytes, out);
                return Ok(());
            }
            Source::Map(map) => map.bytes(),
            Source::Memory(bytes) => bytes,
        };
        let place = range.start as usize * each..range.end as usize * each;
        self.width.decode(mapped.get(place).unwrap_or_default(), out);
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

/// Bytes that are written at a time.
const PIECE: usize = 1 << 16;

/// Writes a file of tokens, a piece at a time. Until [`finish`](Self::finish) they stand in a temporary file beside it, whose name
/// ends in `.tmp`: an old file stays as it is, also for those that read it, and what is cut short is never taken for a whole one.
/// Dropped before, it leaves nothing behind.
pub struct TokenWriter {
    file: NewFile,
    buffer: Vec<u8>,
    path: PathBuf,
    width: Width,
    tokens: u64,
}

impl TokenWriter {
    /// Begins a file, which replaces an old one when it is [finished](Self::finish).
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be made.
    pub fn create(path: impl AsRef<Path>, width: Width) -> Result<TokenWriter> {
        let path = path.as_ref();
        let file = NewFile::create(path)?;
        Ok(TokenWriter { file, buffer: Vec::new(), path: path.to_owned(), width, tokens: 0 })
    }

    /// Appends tokens. One that does not fit the width is refused, and nothing of these is written.
    ///
    /// # Errors
    /// [`Error::Argument`] for a token that does not fit the width; [`Error::Io`] if writing fails.
    pub fn write(&mut self, tokens: &[u32]) -> Result<()> {
        let each = self.width.bytes();
        if let Some(large) = tokens.iter().find(|t| each < 4 && u64::from(**t) >= 1 << (8 * each)) {
            let message = format!("token {large} does not fit {each} bytes; choose a larger width");
            return Err(Error::argument("token file", message));
        }
        self.buffer.extend(tokens.iter().flat_map(|t| t.to_le_bytes().into_iter().take(each)));
        if self.buffer.len() >= PIECE {
            self.file.write(&self.buffer)?;
            self.buffer.clear();
        }
        self.tokens += tokens.len() as u64;
        Ok(())
    }

    /// Appends a text file, tokenized line by line with its line ends, and returns the number of tokens. Lines are the unit:
    /// nothing longer than a line stands in memory.
    ///
    /// # Errors
    /// [`Error::Io`] if the text cannot be read or the tokens not written; [`Error::Argument`] for a token that does
    /// not fit the width; what the tokenizer returns.
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

    /// Ends the file, gives it its name and opens it for reading.
    ///
    /// # Errors
    /// [`Error::Io`] if writing the rest or opening the file fails.
    pub fn finish(mut self) -> Result<TokenFile> {
        self.file.write(&self.buffer)?;
        self.file.finish()?;
        TokenFile::open(&self.path, self.width)
    }
}
