//! Safetensors files: their header, and reading parts of them.

use crate::error::{Error, Result};
#[cfg(not(target_arch = "wasm32"))]
pub(super) use crate::new_file::NewFile;
#[cfg(not(target_arch = "wasm32"))]
use crate::new_file::io;
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
