//! Safetensors files: their header, reading parts of them, and writing them whole or not at all.

use crate::error::{Error, Result};
use crate::types::{DType, Shape};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

/// Longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;

/// The bytes of a checkpoint.
pub(super) enum Source {
    Memory(Vec<u8>),
    #[cfg(not(target_arch = "wasm32"))]
    File(std::sync::Mutex<std::fs::File>, std::path::PathBuf),
}

impl Source {
    /// A file, and its length.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: &std::path::Path) -> Result<(Source, u64)> {
        let file = std::fs::File::open(path).map_err(|e| io(path, &e))?;
        let length = file.metadata().map_err(|e| io(path, &e))?.len();
        Ok((Source::File(file.into(), path.to_owned()), length))
    }

    /// Some of the bytes. They must exist.
    pub fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let missing = || Error::checkpoint(None, "the file is shorter than it was when it was opened; copy it again");
        let place = |at: u64| usize::try_from(at).map_err(|_| missing());
        match self {
            Source::Memory(bytes) => {
                bytes.get(place(range.start)?..place(range.end)?).map(Cow::Borrowed).ok_or_else(missing)
            }
            #[cfg(not(target_arch = "wasm32"))]
            Source::File(file, path) => {
                use std::io::{Read, Seek, SeekFrom};
                let count = place(range.end.saturating_sub(range.start))?;
                let mut bytes = Vec::new();
                let full = Error::OutOfMemory { requested: count as u64, peak: count as u64 };
                bytes.try_reserve_exact(count).map_err(|_| full)?;
                bytes.resize(count, 0);
                let mut file = crate::device::lock(file);
                let read = file.seek(SeekFrom::Start(range.start)).and_then(|_| file.read_exact(&mut bytes));
                read.map_err(|e| io(path, &e))?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Where the tensors begin, and what they are. Fails unless the bytes, `length` of them, are one whole file.
    pub fn header(&self, length: u64) -> Result<(u64, Metadata)> {
        let bad = |e: &str| {
            let advice = "not one whole safetensors file; it may be cut short or damaged: copy it again";
            Error::checkpoint(None, format!("{advice} ({e}; {length} bytes)"))
        };
        if length < 8 {
            return Err(bad("no header"));
        }
        let first: [u8; 8] = self.bytes(0..8)?[..].try_into().unwrap_or_default();
        let count = u64::from_le_bytes(first);
        if count > LONGEST_HEADER {
            return Err(Error::checkpoint(
                None,
                "no safetensors file: it does not begin like one; give the path of another",
            ));
        }
        if count > length - 8 {
            return Err(bad(&format!("a header of {count} bytes")));
        }
        let header = self.bytes(8..8 + count)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| bad(&e.to_string()))?;
        let expected = (8 + count).saturating_add(header.data_len() as u64);
        if expected != length {
            return Err(bad(&format!("{expected} bytes expected")));
        }
        Ok((8 + count, header))
    }
}

/// How a file calls our element types.
pub(super) fn stored_as(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::U32 => Dtype::U32,
    }
}

/// Header of a file with these tensors, whose elements follow in this order. Equal contents give equal bytes: names are
/// sorted.
pub(super) fn header(tensors: Vec<(String, Dtype, Shape)>, mut metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    let failed = |e: String| Error::checkpoint(None, format!("writing failed: {e}"));
    // What PyTorch's own loaders look for.
    metadata.insert("format".into(), "pt".into());
    let mut end = 0usize;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, dtype, shape) in tensors {
        let start = end;
        let bytes = shape.numel().checked_mul(dtype.bitsize() / 8);
        end = bytes.and_then(|n| n.checked_add(start)).ok_or_else(|| failed(name.clone()))?;
        infos.push((name, TensorInfo { dtype, shape: shape.0, data_offsets: (start, end) }));
    }
    let header = Metadata::new(Some(metadata), infos).map_err(|e| failed(e.to_string()))?;
    // Objects of serde_json are sorted maps.
    let mut text = serde_json::to_value(header).map_err(|e| failed(e.to_string()))?.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(bytes)
}

#[cfg(not(target_arch = "wasm32"))]
pub(super) use new::NewFile;

#[cfg(not(target_arch = "wasm32"))]
fn io(path: &std::path::Path, e: &std::io::Error) -> Error {
    Error::Io { path: path.display().to_string(), message: e.to_string() }
}

#[cfg(not(target_arch = "wasm32"))]
mod new {
    use super::{Result, io};
    use crate::error::Error;
    use std::fs::File;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    static NEXT: AtomicU32 = AtomicU32::new(0);

    /// A file that takes the place of another only when it is whole: at every moment either the old or the new one is
    /// there. Dropped before [`finish`](Self::finish), it leaves nothing behind.
    pub struct NewFile {
        path: PathBuf,
        temporary: PathBuf,
        file: Option<File>,
    }

    impl NewFile {
        pub fn create(path: &Path) -> Result<Self> {
            let Some(name) = path.file_name() else {
                return Err(Error::Io { path: path.display().to_string(), message: "not the name of a file".into() });
            };
            let mut temporary = name.to_owned();
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            temporary.push(format!(".{}.{number}.tmp", std::process::id()));
            let temporary = path.with_file_name(temporary);
            let file = File::create(&temporary).map_err(|e| io(path, &e))?;
            Ok(NewFile { path: path.to_owned(), temporary, file: Some(file) })
        }

        pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
            match &mut self.file {
                Some(file) => file.write_all(bytes).map_err(|e| io(&self.path, &e)),
                None => Ok(()),
            }
        }

        pub fn finish(mut self) -> Result<()> {
            if let Some(file) = &self.file {
                file.sync_all().map_err(|e| io(&self.path, &e))?;
                std::fs::rename(&self.temporary, &self.path).map_err(|e| io(&self.path, &e))?;
            }
            self.file = None;
            // The new name lasts once the folder is on disk too; not every system can do that.
            #[cfg(unix)]
            if let Some(Ok(folder)) = self.path.parent().filter(|p| !p.as_os_str().is_empty()).map(File::open) {
                let _ = folder.sync_all();
            }
            Ok(())
        }
    }

    impl Drop for NewFile {
        fn drop(&mut self) {
            if self.file.take().is_some() {
                let _ = std::fs::remove_file(&self.temporary);
            }
        }
    }
}
