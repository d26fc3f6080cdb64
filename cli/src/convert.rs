//! `wgrad convert`.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, View};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use wgrad::models::recognise::present_names;
use wgrad::nn::{QuantTableType, Quantization};
use wgrad::train::Checkpoint;
use wgrad::{Data, Tensor};

#[derive(clap::Args)]
pub struct Args {
    /// The file that is read
    from: PathBuf,
    /// The file that is written; it must not exist unless --force is given
    to: PathBuf,
    /// Element type of all floats, and of quantised tables that are in the file; their scales are gone then
    #[arg(long)]
    dtype: Option<Float>,
    /// Quantise the tables [rows, width] whose name ends so, such as values.weight; may be given several times
    #[arg(long, value_name = "SUFFIX")]
    quantize: Vec<String>,
    /// How tables are quantised: halves, or bytes with a scale a row
    #[arg(long, default_value = "int8")]
    how: How,
    /// Names of older versions of the packages become the present ones
    #[arg(long)]
    present_names: bool,
    /// Replace the beginning of names, OLD=NEW; may be given several times, the first that fits counts
    #[arg(long, value_name = "OLD=NEW", value_parser = pair)]
    rename: Vec<(String, String)>,
    /// Replace the file that is written
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Float {
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    F16,
    Int8,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (old, new) = text.split_once('=').ok_or("expected OLD=NEW")?;
    Ok((old.to_owned(), new.to_owned()))
}

/// A tensor to write.
struct Owned {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16)
}

impl Float {
    fn write(self, values: &[f32]) -> (Dtype, Vec<u8>) {
        match self {
            Float::F32 => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Float::F16 => (Dtype::F16, values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()),
            Float::Bf16 => (Dtype::BF16, values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
        }
    }
}

/// A table as quantised parameters are stored, and its scales if it has any.
fn quantize(name: &str, tensor: &Tensor, how: How) -> Result<(Owned, Option<Owned>)> {
    let &[rows, width] = &tensor.shape()[..] else {
        bail!("{name} is {}; tables [rows, width] are quantised", tensor.shape());
    };
    let shape = vec![rows, width];
    if let How::F16 = how {
        let (dtype, bytes) = Float::F16.write(tensor.floats());
        return Ok((Owned { dtype, shape, bytes }, None));
    }
    let ty = QuantTableType::new(Quantization::Int8, rows, width)?;
    let quantized = ty.quantize(tensor)?;
    // Rows are filled up to whole words on the device, not in files.
    let Data::U32(words) = quantized.words.data() else { bail!("{name}: expected packed words") };
    let stored = ty.words().width().max(1);
    let row = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).take(width).collect::<Vec<u8>>();
    let bytes = words.chunks(stored).flat_map(row).collect();
    let scales = quantized.scales.map(|s| Owned {
        dtype: Dtype::F32,
        shape: vec![rows],
        bytes: s.floats().iter().flat_map(|x| x.to_le_bytes()).collect(),
    });
    Ok((Owned { dtype: Dtype::I8, shape, bytes }, scales))
}

pub fn run(args: &Args) -> Result<()> {
    let (from, to) = (args.from.display(), args.to.display());
    if args.to.exists() && !args.force {
        bail!("{to} is there already; --force replaces it");
    }
    let file = Checkpoint::open(&args.from)?;
    let raw = std::fs::read(&args.from).with_context(|| format!("cannot read {from}"))?;
    let (_, header) = SafeTensors::read_metadata(&raw).with_context(|| format!("{from} is no safetensors file"))?;
    let tensors = SafeTensors::deserialize(&raw).with_context(|| format!("{from} is damaged"))?;
    let present = if args.present_names { present_names(&file) } else { BTreeMap::new() };
    let mut out: BTreeMap<String, Owned> = BTreeMap::new();
    let (mut quantized, mut seen) = (0, HashSet::new());
    let scaled = |name: &str| {
        let is = |name: &str, dtype| tensors.tensor(name).is_ok_and(|t| t.dtype() == dtype);
        is(name, Dtype::I8) && is(&format!("{name}.scales"), Dtype::F32)
    };
    for (name, view) in tensors.iter() {
        let known = present.get(name).cloned().unwrap_or_else(|| name.to_owned());
        let prefix =
            args.rename.iter().find_map(|(old, new)| Some(format!("{new}{}", known.strip_prefix(old.as_str())?)));
        let renamed = prefix.unwrap_or(known);
        let whole = |begin: &str| begin.is_empty() || begin.ends_with('.');
        let table = args.quantize.iter().any(|end| renamed.strip_suffix(end.as_str()).is_some_and(whole));
        let mut tensor = Owned { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
        let mut scales = None;
        if table && is_float(view.dtype()) {
            (tensor, scales) = quantize(&renamed, &file.tensor(name)?, args.how)?;
            quantized += 1;
        } else if let Some(dtype) = args.dtype.filter(|_| is_float(view.dtype()) || scaled(name)) {
            // A quantised table is floats again, and its scales are in them.
            if name.strip_suffix(".scales").is_some_and(scaled) {
                continue;
            }
            (tensor.dtype, tensor.bytes) = dtype.write(file.tensor(name)?.floats());
        }
        let scales = scales.map(|s| (format!("{renamed}.scales"), s));
        for (name, tensor) in [(renamed, tensor)].into_iter().chain(scales) {
            if !seen.insert(name.clone()) {
                bail!("two tensors would be called {name}; rename one of them");
            }
            out.insert(name, tensor);
        }
    }
    if quantized == 0 && !args.quantize.is_empty() {
        bail!("no table of floats has a name that ends in {}", args.quantize.join(" or "));
    }
    let size: u64 = out.values().map(|t| t.bytes.len() as u64).sum();
    // Beside the file first: at every moment the old one or the new one is whole.
    let part = args.to.with_extension(format!("{}.tmp", std::process::id()));
    safetensors::serialize_to_file(out.iter().map(|(n, t)| (n.as_str(), t)), header.metadata().clone(), &part)
        .and_then(|()| std::fs::rename(&part, &args.to).map_err(Into::into))
        .inspect_err(|_| _ = std::fs::remove_file(&part))
        .with_context(|| format!("cannot write {to}"))?;
    println!("{to}: {} tensors, {}, from {}", out.len(), crate::bytes(size), crate::bytes(raw.len() as u64));
    Ok(())
}

impl View for &Owned {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
