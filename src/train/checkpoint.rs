//! Checkpoints in the safetensors format, with PyTorch's names.

use crate::error::{Error, Result};
use crate::nn::Params;
use crate::types::{Data, Shape, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Names that begin so belong to the trainer and not to the model.
pub(super) const OPTIMIZER: &str = "optim.";
/// Metadata: how to build the model again.
const CONFIG: &str = "wgrad.config";

/// A safetensors file in memory. Opening checks the whole file; tensors are converted when asked for.
pub struct Checkpoint {
    bytes: Vec<u8>,
    /// Where the tensors begin.
    start: usize,
    header: Metadata,
}

/// How names of a file are matched with parameters. By default strictly: both sides have the same names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Parameters that the file lacks keep their values.
    pub allow_missing: bool,
    /// Tensors that the model lacks are ignored.
    pub allow_extra: bool,
    /// What the file's names have before the parameters' names, such as `"model."`. Other tensors are ignored.
    pub prefix: String,
}

/// Names that did not match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Parameters that the file lacks.
    pub missing: Vec<String>,
    /// Tensors that the model lacks.
    pub extra: Vec<String>,
}

/// A list that stays readable.
fn some(names: &[String]) -> String {
    let more = if names.len() > 5 { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(5)].join(", "))
}

impl Checkpoint {
    /// Opens a file's bytes. Fails when they are not one whole safetensors file.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let (header_len, header) = SafeTensors::read_metadata(&bytes).map_err(|e| {
            let size = bytes.len();
            let advice = "not one whole safetensors file; it may be cut short or damaged: copy it again";
            Error::checkpoint(None, format!("{advice} ({e}; {size} bytes)"))
        })?;
        Ok(Checkpoint { start: header_len + 8, bytes, header })
    }

    /// Opens a file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        let named = |error| match error {
            Error::Checkpoint { tensor, message } => {
                Error::Checkpoint { tensor, message: format!("{}: {message}", path.display()) }
            }
            other => other,
        };
        Self::from_bytes(std::fs::read(path).map_err(|e| io(path, &e))?).map_err(named)
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort_unstable();
        names
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// A metadata string.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// A tensor as f32; F32, F64, F16 and BF16 are converted, other element types refused.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let (bytes, dtype) = self.raw(name)?;
        let data: Vec<f32> = match dtype {
            Dtype::F32 => words(bytes, f32::from_le_bytes),
            Dtype::F64 => words(bytes, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => words(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => words(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            other => {
                let message = format!("expected F32, F16, BF16 or F64, found {other:?}; convert it");
                return Err(Error::checkpoint(Some(name), message));
            }
        };
        let shape = self.header.info(name).map(|i| i.shape.clone()).unwrap_or_default();
        Tensor::f32(shape, data)
    }

    /// Bytes and element type of a tensor.
    fn raw(&self, name: &str) -> Result<(&[u8], Dtype)> {
        let Some(info) = self.header.info(name) else {
            let message = "the file has no such tensor; check the name or its prefix";
            return Err(Error::checkpoint(Some(name), message));
        };
        let (from, to) = info.data_offsets;
        Ok((self.bytes.get(self.start + from..self.start + to).unwrap_or_default(), info.dtype))
    }

    /// A tensor of U32 that must have a shape.
    pub(super) fn integers(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        self.check_shape(name, shape)?;
        let (bytes, dtype) = self.raw(name)?;
        if dtype != Dtype::U32 {
            return Err(Error::checkpoint(Some(name), format!("expected U32, found {dtype:?}")));
        }
        Tensor::u32(shape.clone(), words(bytes, u32::from_le_bytes))
    }

    /// A tensor as f32 that must have a shape.
    pub(super) fn shaped(&self, name: &str, shape: &Shape) -> Result<Tensor> {
        self.check_shape(name, shape)?;
        self.tensor(name)
    }

    fn check_shape(&self, name: &str, shape: &Shape) -> Result<()> {
        if let Some(info) = self.header.info(name).filter(|i| i.shape != shape.0) {
            let message = format!(
                "expected shape {shape}, the file has {:?}; build the model with the sizes of the checkpoint",
                info.shape
            );
            return Err(Error::checkpoint(Some(name), message));
        }
        Ok(())
    }

    /// Compares names with the parameters'; what the options do not allow is an error.
    pub(super) fn compare(
        &self,
        params: &Params,
        options: &LoadOptions,
        ignored: impl Fn(&str) -> bool,
    ) -> Result<Loaded> {
        let wanted: HashSet<String> = params.names().map(|n| format!("{}{n}", options.prefix)).collect();
        let ours = |n: &String| n.starts_with(&options.prefix) && !ignored(n);
        let loaded = Loaded {
            missing: params
                .names()
                .filter(|n| !self.contains(&format!("{}{n}", options.prefix)))
                .map(str::to_owned)
                .collect(),
            extra: self.names().into_iter().filter(|n| ours(n) && !wanted.contains(n)).collect(),
        };
        if let (Some(name), false) = (loaded.missing.first(), options.allow_missing) {
            let message = format!(
                "the file lacks {} of {} parameters ({}), and has {}; set a prefix, or allow missing ones",
                loaded.missing.len(),
                params.len(),
                some(&loaded.missing),
                some(&self.names())
            );
            return Err(Error::checkpoint(Some(name), message));
        }
        if let (Some(name), false) = (loaded.extra.first(), options.allow_extra) {
            let message = format!(
                "the model lacks {} tensors of the file ({}); build the model that was saved, or allow extra ones",
                loaded.extra.len(),
                some(&loaded.extra)
            );
            return Err(Error::checkpoint(Some(name), message));
        }
        Ok(loaded)
    }

    /// Sets parameters by name. Everything is checked first: on an error nothing has changed.
    pub fn load_into(&self, params: &mut Params, options: &LoadOptions) -> Result<Loaded> {
        let loaded = self.compare(params, options, |n| n.starts_with(OPTIMIZER))?;
        let mut values = Vec::new();
        for p in params.iter() {
            let name = format!("{}{}", options.prefix, p.name());
            if self.contains(&name) {
                values.push((p.name().to_owned(), self.shaped(&name, p.shape())?));
            }
        }
        for (name, value) in values {
            params.set(&name, value)?;
        }
        Ok(loaded)
    }
}

impl Params {
    /// The parameters as a safetensors file.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let tensors = self.values().map(|(n, t)| (n.to_owned(), t)).collect();
        to_bytes(&tensors, HashMap::new())
    }

    /// [`to_bytes`](Self::to_bytes) with text that says how to build the model again, where a trainer's file has it.
    pub fn to_bytes_with(&self, config: &str) -> Result<Vec<u8>> {
        let tensors = self.values().map(|(n, t)| (n.to_owned(), t)).collect();
        to_bytes(&tensors, HashMap::from([(CONFIG.to_owned(), config.to_owned())]))
    }

    /// Writes the parameters to a safetensors file; an old file is replaced only when the new one is whole.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        write(path.as_ref(), &self.to_bytes()?)
    }

    /// Sets parameters from a safetensors file, see [`Checkpoint::load_into`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(&mut self, path: impl AsRef<std::path::Path>, options: &LoadOptions) -> Result<Loaded> {
        Checkpoint::open(path)?.load_into(self, options)
    }
}

fn words<E: Default, const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> E) -> Vec<E> {
    let word = |c: &[u8]| c.try_into().map(&f).unwrap_or_default();
    bytes.chunks_exact(N).map(word).collect()
}

/// A safetensors file.
pub(super) fn to_bytes(tensors: &BTreeMap<String, Tensor>, mut metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    let failed = |e| Error::checkpoint(None, format!("writing failed: {e}"));
    // What PyTorch's own loaders look for.
    metadata.insert("format".into(), "pt".into());
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, t)| {
            let dtype = match t.data() {
                Data::F32(_) => Dtype::F32,
                Data::U32(_) => Dtype::U32,
            };
            TensorView::new(dtype, t.shape().0.clone(), t.data().bytes()).map(|view| (name, view))
        })
        .collect();
    let bytes = safetensors::serialize(views.map_err(failed)?, Some(metadata)).map_err(failed)?;
    Ok(with_sorted_header(bytes))
}

/// The same file with the names in its header in order: equal contents give equal bytes. The library takes metadata from a
/// hash map, whose order changes from run to run.
fn with_sorted_header(mut bytes: Vec<u8>) -> Vec<u8> {
    let Some((length, rest)) = bytes.split_first_chunk_mut::<8>() else { return bytes };
    let Some(header) = usize::try_from(u64::from_le_bytes(*length)).ok().and_then(|n| rest.get_mut(..n)) else {
        return bytes;
    };
    // Objects of serde_json are sorted maps.
    let sorted = serde_json::from_slice::<serde_json::Value>(header).map(|h| h.to_string().into_bytes());
    if let Ok(sorted) = sorted
        && sorted.len() <= header.len()
    {
        header.fill(b' ');
        header[..sorted.len()].copy_from_slice(&sorted);
    }
    bytes
}

#[cfg(not(target_arch = "wasm32"))]
fn io(path: &std::path::Path, e: &std::io::Error) -> Error {
    Error::Io { path: path.display().to_string(), message: e.to_string() }
}

/// Writes a file so that at every moment either the old or the new one is there, whole.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn write(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Some(name) = path.file_name() else {
        return Err(Error::Io { path: path.display().to_string(), message: "not the name of a file".into() });
    };
    let mut temporary = name.to_owned();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    temporary.push(format!(".{}.{number}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(e) = written {
        let _ = std::fs::remove_file(&temporary);
        return Err(io(path, &e));
    }
    // The new name lasts once the folder is on disk too; not every system can do that.
    #[cfg(unix)]
    if let Some(Ok(folder)) = path.parent().filter(|p| !p.as_os_str().is_empty()).map(std::fs::File::open) {
        let _ = folder.sync_all();
    }
    Ok(())
}
