//! Checkpoints in the safetensors format, with PyTorch's names.

use super::file::{self, Source};
use super::rounded::{self, Rounded, SCALES};
use crate::error::{Error, Result};
use crate::nn::Params;
use crate::types::{DType, Data, Shape, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::borrow::Cow;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::ops::Range;

/// Names that begin so belong to the trainer and not to the model.
pub(super) const OPTIMIZER: &str = "optim.";
/// Metadata: how to build the model again.
const CONFIG: &str = "wgrad.config";

/// A safetensors file, in memory or on disk. Opening checks the header and the length; tensors are read and converted when
/// asked for.
pub struct Checkpoint {
    source: Source,
    /// Where the tensors begin.
    start: u64,
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
    /// Other names under which the file may have a parameter: for a parameter whose name ends in the first, the tensor that
    /// ends in the second instead.
    pub aliases: Vec<(String, String)>,
}

/// Names that did not match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// Parameters that the file lacks.
    pub missing: Vec<String>,
    /// Tensors that the model lacks.
    pub extra: Vec<String>,
}

/// How a tensor lies in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Element type as the format calls it, such as `"F32"` or `"BF16"`.
    pub dtype: String,
    /// Its shape.
    pub shape: Shape,
    /// What it takes in the file.
    pub bytes: u64,
}

/// A list that stays readable.
fn some(names: &[String]) -> String {
    let more = if names.len() > 5 { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(5)].join(", "))
}

impl Checkpoint {
    /// Opens a file's bytes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when they are not one whole safetensors file.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let length = bytes.len() as u64;
        let source = Source::Memory(bytes);
        let (start, header) = source.header(length)?;
        Ok(Checkpoint { source, start, header })
    }

    /// Opens a file. It stays open, and must not be written to meanwhile; replacing it does no harm.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened or read; [`Error::Checkpoint`] when it is not one whole safetensors file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<Self> {
        let path = path.as_ref();
        let named = |error| match error {
            Error::Checkpoint { tensor, message } => {
                Error::Checkpoint { tensor, message: format!("{}: {message}", path.display()) }
            }
            other => other,
        };
        let (source, length) = Source::open(path)?;
        let (start, header) = source.header(length).map_err(named)?;
        Ok(Checkpoint { source, start, header })
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        BinaryHeap::from(self.header.offset_keys()).into_sorted_vec()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// Type, shape and size of a tensor, if there is one of this name. The header knows; nothing else of the file is read.
    pub fn stored(&self, name: &str) -> Option<Stored> {
        let info = self.header.info(name)?;
        let (start, end) = info.data_offsets;
        Some(Stored {
            dtype: format!("{:?}", info.dtype),
            shape: Shape(info.shape.clone()),
            bytes: end.saturating_sub(start) as u64,
        })
    }

    /// Shape of a tensor, if there is one of this name.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| &info.shape[..])
    }

    /// Keys of all metadata, sorted.
    pub fn metadata_keys(&self) -> Vec<String> {
        let keys = self.header.metadata().iter().flat_map(HashMap::keys).cloned();
        keys.collect::<BinaryHeap<String>>().into_sorted_vec()
    }

    /// A metadata string.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// A tensor as f32; F32, F64, F16 and BF16 are converted, I64, as which PyTorch keeps counters, and I8 with scales of
    /// its rows ([`Param::quantized`](crate::nn::Param::quantized)); other element types are refused.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for an unknown name or another element type; [`Error::Io`] if the file cannot be read any
    /// more; [`Error::OutOfMemory`].
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.info(name)?;
        let shape = Shape(info.shape.clone());
        match self.scales(name, info)? {
            Some(scales) => {
                rounded::restore(shape, &self.bytes(info, 0..info.shape.iter().product())?, scales.floats())
            }
            None => Tensor::new(shape.clone(), self.part(name, 0..shape.numel(), DType::F32)?),
        }
    }

    /// Scales of the rows of a table of bytes.
    fn scales(&self, name: &str, info: &TensorInfo) -> Result<Option<Tensor>> {
        let scales = format!("{name}{SCALES}");
        match &info.shape[..] {
            [rows, _] if info.dtype == Dtype::I8 && self.contains(&scales) => {
                self.check(&scales, &Shape(vec![*rows]), DType::F32)?;
                self.tensor(&scales).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header
            .info(name)
            .ok_or_else(|| Error::checkpoint(Some(name), "the file has no such tensor; check the name or its prefix"))
    }

    fn bytes(&self, info: &TensorInfo, elements: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let size = info.dtype.bitsize() as u64 / 8;
        let from = self.start + info.data_offsets.0 as u64;
        let place = |element: usize| from.saturating_add((element as u64).saturating_mul(size));
        self.source.bytes(place(elements.start)..place(elements.end))
    }

    /// Elements of a tensor, converted to f32 like [`tensor`](Self::tensor), or of one of U32.
    pub(super) fn part(&self, name: &str, elements: Range<usize>, dtype: DType) -> Result<Data> {
        let info = self.info(name)?;
        let bytes = self.bytes(info, elements)?;
        Ok(match (dtype, info.dtype) {
            (DType::U32, Dtype::U32) => Data::U32(words(&bytes, u32::from_le_bytes)),
            (DType::F32, Dtype::F32) => Data::F32(words(&bytes, f32::from_le_bytes)),
            (DType::F32, Dtype::F64) => Data::F32(words(&bytes, |b| f64::from_le_bytes(b) as f32)),
            (DType::F32, Dtype::F16) => Data::F32(words(&bytes, |b| f16::from_le_bytes(b).to_f32())),
            (DType::F32, Dtype::BF16) => Data::F32(words(&bytes, |b| bf16::from_le_bytes(b).to_f32())),
            (DType::F32, Dtype::I64) => Data::F32(words(&bytes, |b| i64::from_le_bytes(b) as f32)),
            (DType::U32, other) => return Err(Error::checkpoint(Some(name), format!("expected U32, found {other:?}"))),
            (DType::F32, other) => {
                let message = format!("expected F32, F16, BF16 or F64, found {other:?}; convert it");
                return Err(Error::checkpoint(Some(name), message));
            }
        })
    }

    /// Refuses what is no tensor of this shape, or has elements that [`part`](Self::part) does not read.
    pub(super) fn check(&self, name: &str, shape: &Shape, dtype: DType) -> Result<()> {
        let info = self.info(name)?;
        if info.shape[..] != shape[..] {
            let message = format!(
                "expected shape {shape}, the file has {:?}; build the model with the sizes of the checkpoint",
                info.shape
            );
            return Err(Error::checkpoint(Some(name), message));
        }
        match dtype {
            DType::F32 if self.scales(name, info)?.is_some() => Ok(()),
            _ => self.part(name, 0..0, dtype).map(drop),
        }
    }

    /// Name that a parameter has, or should have, in the file.
    fn theirs(&self, name: &str, options: &LoadOptions) -> String {
        let plain = format!("{}{name}", options.prefix);
        let alias = |(own, other): &(String, String)| {
            let begin = plain.strip_suffix(own.as_str()).filter(|b| b.is_empty() || b.ends_with('.'))?;
            Some(format!("{begin}{other}")).filter(|n| self.contains(n))
        };
        if self.contains(&plain) {
            return plain;
        }
        options.aliases.iter().find_map(alias).unwrap_or(plain)
    }

    /// Compares names with the parameters'; what the options do not allow is an error.
    pub(super) fn compare(
        &self,
        params: &Params,
        options: &LoadOptions,
        ignored: impl Fn(&str) -> bool,
    ) -> Result<Loaded> {
        let mut wanted: HashSet<String> = params.names().map(|n| self.theirs(n, options)).collect();
        let bytes = wanted.iter().filter(|n| self.header.info(n).is_some_and(|info| info.dtype == Dtype::I8));
        let scales: Vec<String> = bytes.map(|n| format!("{n}{SCALES}")).collect();
        wanted.extend(scales);
        let ours = |n: &String| n.starts_with(&options.prefix) && !ignored(n);
        let loaded = Loaded {
            missing: params.names().filter(|n| !self.contains(&self.theirs(n, options))).map(str::to_owned).collect(),
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
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a shape or an element type that does not fit, and for tensors that are missing or too
    /// many unless the options allow it; [`Error::Io`] if the file cannot be read any more; [`Error::OutOfMemory`].
    pub fn load_into(&self, params: &mut Params, options: &LoadOptions) -> Result<Loaded> {
        let loaded = self.compare(params, options, |n| n.starts_with(OPTIMIZER))?;
        let found: Vec<_> = params.iter().map(|p| (p.name().to_owned(), p.shape().clone())).collect();
        let named = |(p, shape): (String, Shape)| (self.theirs(&p, options), p, shape);
        let found: Vec<_> = found.into_iter().map(named).filter(|(name, ..)| self.contains(name)).collect();
        found.iter().try_for_each(|(name, _, shape)| self.check(name, shape, DType::F32))?;
        let mut values = Vec::with_capacity(found.len());
        for (name, p, _) in found {
            values.push((p, self.tensor(&name)?));
        }
        for (name, value) in values {
            params.set(&name, value)?;
        }
        Ok(loaded)
    }
}

impl Params {
    /// The parameters as a safetensors file.
    ///
    /// # Errors
    /// [`Error::Limit`] if a quantised parameter cannot be cut; [`Error::Argument`] if its values do not round;
    /// [`Error::Name`] if its scales need the name of another parameter.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.to_bytes_with(None)
    }

    /// [`to_bytes`](Self::to_bytes) with text that says how to build the model again, where a trainer's file has it.
    ///
    /// # Errors
    /// As [`to_bytes`](Self::to_bytes).
    pub fn to_bytes_with(&self, config: Option<&str>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let config = config.map(|config| (CONFIG.to_owned(), config.to_owned()));
        self.write(config.into_iter().collect(), |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Writes the parameters to a safetensors file; an old file is replaced only when the new one is whole.
    ///
    /// # Errors
    /// [`Error::Io`] if writing fails; else as [`to_bytes`](Self::to_bytes).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        let mut file = file::NewFile::create(path.as_ref())?;
        self.write(HashMap::new(), |part| file.write(part))?;
        file.finish()
    }

    /// Hands over the bytes of the file part by part: no table is ever whole in memory twice. Wide elements come first, so
    /// that all are aligned.
    pub(super) fn write(
        &self,
        metadata: HashMap<String, String>,
        mut put: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let rounded = Rounded::all(self)?;
        let plain = || self.iter().filter(|p| p.quantization().is_none());
        let mut tensors: Vec<_> = plain().map(|p| (p.name().to_owned(), Dtype::F32, p.shape().clone())).collect();
        tensors.extend(rounded.iter().filter_map(Rounded::scales_header));
        tensors.extend(rounded.iter().map(Rounded::header));
        put(&file::header(tensors, metadata)?)?;
        let mut buffer = vec![0.0f32; 1 << 16];
        for p in plain() {
            let mut draw = self.draw(p);
            let mut left = p.shape().numel();
            while left > 0 {
                let n = left.min(buffer.len());
                draw.fill(&mut buffer[..n]);
                put(bytemuck::cast_slice(&buffer[..n]))?;
                left -= n;
            }
        }
        rounded.iter().try_for_each(|table| table.write_scales(self, &mut put))?;
        rounded.iter().try_for_each(|table| table.write(self, &mut put))
    }

    /// Sets parameters from a safetensors file, see [`Checkpoint::load_into`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::load_into`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn load(&mut self, path: impl AsRef<std::path::Path>, options: &LoadOptions) -> Result<Loaded> {
        Checkpoint::open(path)?.load_into(self, options)
    }
}

fn words<E: Default, const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> E) -> Vec<E> {
    let word = |c: &[u8]| c.try_into().map(&f).unwrap_or_default();
    bytes.chunks_exact(N).map(word).collect()
}
