//! `wgrad convert`.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
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
    /// Element type of all floats, and of quantised tables that are in the file; their scales are gone then. Of a trainer's
    /// checkpoint only the parameters are written
    #[arg(long)]
    dtype: Option<Float>,
    /// Quantise the tables [rows, width] whose name ends so, such as values.weight; may be given several times. Of a trainer's
    /// checkpoint only the parameters are written
    #[arg(long, value_name = "SUFFIX")]
    quantize: Vec<String>,
    /// How tables are quantised: halves, or bytes with a scale a row
    #[arg(long, default_value = "int8")]
    how: How,
    /// Names of older versions of the packages become the present ones; also where a trainer's checkpoint names parameters
    #[arg(long)]
    present_names: bool,
    /// Replace the beginning of names, OLD=NEW; may be given several times, the first that fits counts. In a trainer's
    /// checkpoint what the optimizer keeps is renamed with the parameters
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

/// Tensors of a trainer's checkpoint that begin so are no parameters.
const OPTIMIZER: &str = "optim.";
/// Metadata of trainers' checkpoints alone: which optimizer it is.
const TRAINER: &str = "wgrad.optimizer";
/// Metadata: the rules of tables that are updated by rows.
const ROWS: &str = "wgrad.rows";

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
    /// The elements in this type; infinities stay, but nothing that is finite becomes one.
    fn write(self, name: &str, tensor: &Tensor) -> Result<(Dtype, Vec<u8>)> {
        let values = tensor.floats();
        let rounded = |x: f32| match self {
            Float::F32 => x,
            Float::F16 => f16::from_f32(x).to_f32(),
            Float::Bf16 => bf16::from_f32(x).to_f32(),
        };
        if let Some(at) = values.iter().position(|x| x.is_finite() && !rounded(*x).is_finite()) {
            let (place, value) = (place(tensor.shape(), at), values[at]);
            let (ty, largest, other) = match self {
                Float::F16 => ("f16", f32::from(f16::MAX), "bf16 or f32"),
                _ => ("bf16", f32::from(bf16::MAX), "f32"),
            };
            bail!("{name}{place} is {value}, {ty} reaches to {largest}; use --dtype {other}, or clip it");
        }
        Ok(match self {
            Float::F32 => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Float::F16 => (Dtype::F16, values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()),
            Float::Bf16 => (Dtype::BF16, values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
        })
    }
}

/// The indices of an element, such as `[3, 1]`.
fn place(shape: &[usize], mut at: usize) -> String {
    let mut indices: Vec<usize> = Vec::with_capacity(shape.len());
    for size in shape.iter().rev() {
        indices.push(at % size);
        at /= size;
    }
    indices.reverse();
    format!("{indices:?}")
}

/// A tensor of floats in single precision, which all of the library computes in.
fn floats(file: &Checkpoint, name: &str, view: &TensorView) -> Result<Tensor> {
    let tensor = file.tensor(name)?;
    if view.dtype() == Dtype::F64 {
        let given = view.data().as_chunks().0.iter().map(|x| f64::from_le_bytes(*x));
        let mut both = given.zip(tensor.floats()).enumerate();
        if let Some((at, (given, _))) = both.find(|(_, (given, x))| given.is_finite() && !x.is_finite()) {
            let (place, largest) = (place(tensor.shape(), at), f32::MAX);
            bail!("{name}{place} is {given:e}, f32 reaches to {largest:e}; clip it, or leave the file as it is");
        }
    }
    Ok(tensor)
}

/// A table as quantised parameters are stored, and its scales if it has any.
fn quantize(name: &str, tensor: &Tensor, how: How) -> Result<(Owned, Option<Owned>)> {
    let &[rows, width] = &tensor.shape()[..] else {
        bail!("{name} is {}; tables [rows, width] are quantised", tensor.shape());
    };
    let (how, dtype, size) = match how {
        How::F16 => (Quantization::F16, Dtype::F16, 2),
        How::Int8 => (Quantization::Int8, Dtype::I8, 1),
    };
    let ty = QuantTableType::new(how, rows, width)?;
    let quantized = ty.quantize(tensor).with_context(|| name.to_owned())?;
    // Rows are filled up to whole words on the device, not in files.
    let Data::U32(words) = quantized.words.data() else { bail!("{name}: expected packed words") };
    let stored = ty.words().width().max(1);
    let row = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).take(size * width).collect::<Vec<u8>>();
    let bytes = words.chunks(stored).flat_map(row).collect();
    let scales = quantized.scales.map(|s| Owned {
        dtype: Dtype::F32,
        shape: vec![rows],
        bytes: s.floats().iter().flat_map(|x| x.to_le_bytes()).collect(),
    });
    Ok((Owned { dtype, shape: vec![rows, width], bytes }, scales))
}

/// New names of parameters.
struct Names<'a> {
    present: BTreeMap<String, String>,
    rename: &'a [(String, String)],
    /// Whether a trainer wrote the file.
    trainer: bool,
}

impl Names<'_> {
    /// Of a parameter.
    fn param(&self, name: &str) -> String {
        let known = self.present.get(name).map_or(name, String::as_str);
        let new = self.rename.iter().find_map(|(old, new)| Some(format!("{new}{}", known.strip_prefix(old.as_str())?)));
        new.unwrap_or_else(|| known.to_owned())
    }

    /// Of a tensor of the file: what an optimizer keeps for a parameter goes with it. What a loss carries has names of its own.
    fn tensor(&self, name: &str) -> String {
        let kept = name.strip_prefix(OPTIMIZER).filter(|_| self.trainer).and_then(|rest| rest.split_once('.'));
        match kept {
            Some(("carried", _)) => name.to_owned(),
            Some((slot, param)) => format!("{OPTIMIZER}{slot}.{}", self.param(param)),
            None => self.param(name),
        }
    }

    /// Of the tables whose rules the metadata states.
    fn rows(&self, rules: &str) -> Result<String> {
        let rules: BTreeMap<String, String> =
            serde_json::from_str(rules).with_context(|| format!("metadata {ROWS}: expected the rule of each table"))?;
        let renamed: BTreeMap<String, String> = rules.into_iter().map(|(n, rule)| (self.param(&n), rule)).collect();
        Ok(serde_json::to_string(&renamed)?)
    }
}

/// The metadata of the new file: all of it, or, of a trainer's, without what only a trainer needs to go on.
fn metadata(all: &mut HashMap<String, String>, names: &Names, plain: bool) -> Result<()> {
    if plain {
        all.retain(|key, _| !key.starts_with("wgrad.") || key == "wgrad.config");
    } else if let Some(rules) = all.get_mut(ROWS) {
        *rules = names.rows(rules)?;
    }
    Ok(())
}

/// Beside the file first: at every moment the old one or the new one is whole.
fn write(to: &Path, tensors: &BTreeMap<String, Owned>, about: Option<HashMap<String, String>>) -> Result<()> {
    let part = to.with_extension(format!("{}.tmp", std::process::id()));
    safetensors::serialize_to_file(tensors.iter().map(|(n, t)| (n.as_str(), t)), about, &part)
        .and_then(|()| std::fs::rename(&part, to).map_err(Into::into))
        .inspect_err(|_| _ = std::fs::remove_file(&part))?;
    Ok(())
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
    let trainer = file.metadata(TRAINER).is_some();
    let names = Names { present, rename: &args.rename, trainer };
    // Moments belong to the parameters as they were: training would not go on from rounded ones as if nothing had happened.
    let plain = trainer && (args.dtype.is_some() || !args.quantize.is_empty());
    let mut about = header.metadata().clone();
    if let Some(about) = &mut about {
        metadata(about, &names, plain)?;
    }
    let mut out: BTreeMap<String, Owned> = BTreeMap::new();
    let mut quantized = 0;
    let scaled = |name: &str| {
        let is = |name: &str, dtype| tensors.tensor(name).is_ok_and(|t| t.dtype() == dtype);
        is(name, Dtype::I8) && is(&format!("{name}.scales"), Dtype::F32)
    };
    for (name, view) in tensors.iter().filter(|(name, _)| !plain || !name.starts_with(OPTIMIZER)) {
        let renamed = names.tensor(name);
        let whole = |begin: &str| begin.is_empty() || begin.ends_with('.');
        let table = args.quantize.iter().any(|end| renamed.strip_suffix(end.as_str()).is_some_and(whole));
        let mut tensor = Owned { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
        let mut scales = None;
        if table && is_float(view.dtype()) {
            (tensor, scales) = quantize(&renamed, &floats(&file, name, &view)?, args.how)?;
            quantized += 1;
        } else if let Some(dtype) = args.dtype.filter(|_| is_float(view.dtype()) || scaled(name)) {
            // A quantised table is floats again, and its scales are in them.
            if name.strip_suffix(".scales").is_some_and(scaled) {
                continue;
            }
            (tensor.dtype, tensor.bytes) = dtype.write(name, &floats(&file, name, &view)?)?;
        }
        let scales = scales.map(|s| (format!("{renamed}.scales"), s));
        for (name, tensor) in [(renamed, tensor)].into_iter().chain(scales) {
            if out.insert(name.clone(), tensor).is_some() {
                bail!("two tensors would be called {name}; rename one of them");
            }
        }
    }
    if quantized == 0 && !args.quantize.is_empty() {
        bail!("no table of floats has a name that ends in {}", args.quantize.join(" or "));
    }
    let size: u64 = out.values().map(|t| t.bytes.len() as u64).sum();
    write(&args.to, &out, about).with_context(|| format!("cannot write {to}"))?;
    if plain {
        eprintln!("{from} is a trainer's checkpoint; {to} has its parameters alone, and training cannot go on from it");
    }
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
