//! Reads fixtures: one case a file, tensors by key, metadata.
#![allow(dead_code)] // What some modules need, the tables may not use yet.

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use wgrad::{Error, Result, Tensor};

/// One fixture.
pub struct Case {
    /// File name without extension.
    pub name: String,
    pub path: PathBuf,
    pub system: String,
    pub module: String,
    /// Version of the package whose behaviour is shown.
    pub version: String,
    /// Constructor and call options.
    pub config: Value,
    /// Which meaning is shown: `reference`, `per-sample`, `intended`.
    pub semantics: String,
    /// Output -> mask: compare only where the mask is not 0.
    pub compare_mask: BTreeMap<String, String>,
    /// `param.*`, `input.*`, `output.*`, `cotangent.*`, `grad.param.*`, `grad.input.*`. Negative integers are u32::MAX.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Case {
    /// A tensor by its full key.
    pub fn tensor(&self, key: &str) -> Result<&Tensor> {
        let missing = || Error::argument(key, format!("not in fixture {}", self.name));
        self.tensors.get(key).ok_or_else(missing)
    }

    /// Keys with a prefix, without it, in order.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.tensors.keys().filter_map(move |k| k.strip_prefix(prefix))
    }

    /// Whether a key exists.
    pub fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// An option by its path in the configuration: `init/heads`.
    pub fn option(&self, path: &str) -> Option<&Value> {
        self.config.pointer(&format!("/{path}")).filter(|v| !v.is_null())
    }

    /// An integer option.
    pub fn int(&self, path: &str, default: i64) -> i64 {
        self.option(path).and_then(Value::as_i64).unwrap_or(default)
    }

    /// A size option.
    pub fn size(&self, path: &str, default: usize) -> usize {
        let value = self.option(path).and_then(Value::as_u64);
        value.map_or(default, |v| v as usize)
    }

    /// A float option.
    pub fn float(&self, path: &str, default: f64) -> f64 {
        self.option(path).and_then(Value::as_f64).unwrap_or(default)
    }

    /// A flag.
    pub fn flag(&self, path: &str, default: bool) -> bool {
        self.option(path).and_then(Value::as_bool).unwrap_or(default)
    }

    /// A list of sizes.
    pub fn sizes(&self, path: &str) -> Option<Vec<usize>> {
        let list = self.option(path)?.as_array()?;
        list.iter().map(|v| v.as_u64().map(|v| v as usize)).collect()
    }

    fn load(path: &Path) -> Result<Case> {
        let bytes = std::fs::read(path).map_err(|e| Error::argument(path.display().to_string(), e.to_string()))?;
        Case::parse(path, &bytes)
    }

    /// A case from the bytes of its file.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Case> {
        let bad = |e: &dyn std::fmt::Display| Error::argument(path.display().to_string(), e.to_string());
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| bad(&e))?;
        let meta = header.metadata().clone().unwrap_or_default();
        let file = SafeTensors::deserialize(bytes).map_err(|e| bad(&e))?;
        let text = |key: &str| meta.get(key).cloned().unwrap_or_default();
        let json = |key: &str, none: &str| {
            let text = meta.get(key).map_or(none, String::as_str);
            serde_json::from_str::<Value>(text).map_err(|e| bad(&e))
        };
        let mut tensors = BTreeMap::new();
        for (key, view) in file.iter() {
            tensors.insert(key.to_owned(), convert(&view).map_err(|e| bad(&format!("{key}: {e}")))?);
        }
        let masks = json("compare_mask", "{}")?;
        let masks = masks.as_object().into_iter().flatten();
        let stem = path.file_stem().unwrap_or_default();
        Ok(Case {
            name: stem.to_string_lossy().into_owned(),
            path: path.to_owned(),
            system: text("system"),
            module: text("module"),
            version: text("version"),
            config: json("config", "{}")?,
            semantics: text("semantics"),
            compare_mask: masks.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
            tensors,
        })
    }
}

/// Floats stay; i32 and u8 become u32, negative numbers (labels to ignore) u32::MAX.
fn convert(view: &TensorView<'_>) -> Result<Tensor> {
    let (shape, data) = (view.shape().to_vec(), view.data());
    let words = || data.as_chunks::<4>().0.iter();
    match view.dtype() {
        Dtype::F32 => Tensor::f32(shape, words().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::I32 => {
            let ints = words().map(|b| u32::try_from(i32::from_le_bytes(*b)).unwrap_or(u32::MAX));
            Tensor::u32(shape, ints.collect())
        }
        Dtype::U8 | Dtype::BOOL => Tensor::u32(shape, data.iter().map(|b| u32::from(*b)).collect()),
        other => Err(Error::argument("fixture", format!("element type {other:?} is unknown"))),
    }
}

/// All cases, in the order of their paths.
pub fn load_all() -> Result<Vec<Case>> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")];
    if let Some(more) = std::env::var_os("WGRAD_FIXTURES") {
        folders.extend(std::env::split_paths(&more).filter(|p| !p.as_os_str().is_empty()));
    }
    let mut files = Vec::new();
    for folder in folders {
        for path in entries(&folder)? {
            if path.is_dir() {
                files.extend(entries(&path)?);
            } else {
                files.push(path);
            }
        }
    }
    files.retain(|f| f.extension().is_some_and(|e| e == "safetensors"));
    files.sort();
    files.dedup();
    files.iter().map(|f| Case::load(f)).collect()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::argument(folder.display().to_string(), e.to_string());
    let list = std::fs::read_dir(folder).map_err(failed)?;
    list.map(|e| e.map(|e| e.path()).map_err(failed)).collect()
}
