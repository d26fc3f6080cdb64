//! Checkpoints of the PyTorch packages, told by the names and shapes of their tensors.
//!
//! ```
//! use wgrad::models::recognise::recognise;
//! use wgrad::models::{InfiniConfig, InfiniTransformer};
//! use wgrad::train::Checkpoint;
//! # fn main() -> wgrad::Result<()> {
//! let model = InfiniTransformer::new(InfiniConfig { heads: 2, dim_head: 4, ..InfiniConfig::new(256, 8, 1) })?;
//! let file = Checkpoint::from_bytes(model.init(1).to_bytes()?)?;
//! let found = recognise(&file).map(|found| found.kind);
//! assert_eq!(found.as_deref(), Some("infini"));
//! # Ok(())
//! # }
//! ```

use super::product_key::OLDER_NAMES;
use crate::train::Checkpoint;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a checkpoint fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Recognised {
    /// "infini", "pkm" and "recurrent" are language models, "colt5" is a layer of one; else the kind that a file of this
    /// library says it is.
    pub kind: String,
    /// The PyTorch package whose names these are; "wgrad" for a file of this library.
    pub package: &'static str,
    /// Options that build the model again, as far as the tensors tell, named as in the npm package.
    pub options: Value,
    /// Of these the ones that no tensor tells and that have their usual values: of heads of attention only the product of number
    /// and size is known, and a block is taken to be as wide as there are state vectors.
    pub guessed: &'static [&'static str],
}

/// Which model a checkpoint fits, if it is one that this library has. Names and shapes tell; no tensor is read.
pub fn recognise(file: &Checkpoint) -> Option<Recognised> {
    let own = file.metadata("wgrad.config").and_then(|text| serde_json::from_str::<Value>(text).ok());
    if let Some(own) = own {
        let kind = own.get("kind").and_then(Value::as_str).unwrap_or("described").to_owned();
        let options = own.get("options").cloned().unwrap_or(own);
        return Some(Recognised { kind, package: "wgrad", options, guessed: &[] });
    }
    if let Some((kind, options)) = language(file) {
        let (package, guessed): (_, &[_]) = match kind {
            "infini" => ("infini-transformer-pytorch", &[]),
            "pkm" => ("product-key-memory", &["heads", "dimHead"]),
            _ => ("block-recurrent-transformer-pytorch", &["blockWidth"]),
        };
        return Some(Recognised { kind: kind.to_owned(), package, options, guessed });
    }
    let colt5 = || Recognised { kind: "colt5".into(), package: "CoLT5-attention", options: json!({}), guessed: &[] };
    is_colt5(file).then(colt5)
}

/// The present name of each tensor that has one of an older version: of product-key-memory up to 0.2.9 with
/// `concat_values_and_combine`, and of the states of block-recurrent-transformer-pytorch up to 0.3.1.
pub fn present_names(file: &Checkpoint) -> BTreeMap<String, String> {
    let names = file.names();
    let mut renamed = BTreeMap::new();
    for name in &names {
        for (now, before) in OLDER_NAMES {
            let begin = name.strip_suffix(before).filter(|b| b.is_empty() || b.ends_with('.'));
            // A plain layer has "values.weight" and nothing below "values.0".
            if let Some(begin) = begin.filter(|b| names.contains(&format!("{b}values.3.weight"))) {
                renamed.insert(name.clone(), format!("{begin}{now}"));
            }
        }
        // A layer that holds its states itself: what is not its own projection or norm belongs to them.
        let Some(begin) = name.strip_suffix("init_state").filter(|b| !b.ends_with("state_container.")) else {
            continue;
        };
        let own = ["norm.", "to_q.", "to_kv.", "to_out.", "attn."];
        for part in names.iter().filter_map(|n| n.strip_prefix(begin)) {
            if !own.iter().any(|o| part.starts_with(o)) {
                renamed.insert(format!("{begin}{part}"), format!("{begin}state_container.{part}"));
            }
        }
    }
    renamed
}

/// Shapes of a file's tensors, from its header.
struct Shapes<'a>(&'a Checkpoint);

impl Shapes<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn dim(&self, name: &str, axis: usize) -> Option<usize> {
        self.0.shape(name)?.get(axis).copied()
    }

    /// Numbers of the layers, from 0 to `depth`, that have a tensor of this name.
    fn layers(&self, depth: usize, end: &str) -> Vec<usize> {
        (0..depth).filter(|i| self.has(&format!("layers.{i}.{end}"))).collect()
    }
}

/// Kind and options of a language model; for what its tensors do not tell, options of the caller win.
pub(crate) fn language(file: &Checkpoint) -> Option<(&'static str, Value)> {
    let s = Shapes(file);
    let (tokens, dim) = (s.dim("token_emb.weight", 0)?, s.dim("token_emb.weight", 1)?);
    let layer = |i: usize| ["0.to_qkv.weight", "0.to_q.weight"].iter().any(|n| s.has(&format!("layers.{i}.{n}")));
    let depth = (0..).take_while(|i| layer(*i)).count();
    let (kind, own) = infini(&s).or_else(|| product_key(&s, depth)).or_else(|| recurrent(&s, depth))?;
    let mut options = json!({ "numTokens": tokens, "dim": dim, "depth": depth });
    if let (Value::Object(all), Value::Object(own)) = (&mut options, own) {
        all.extend(own);
    }
    Some((kind, options))
}

/// infini-transformer-pytorch.
fn infini(s: &Shapes<'_>) -> Option<(&'static str, Value)> {
    let heads = s.dim("layers.0.0.fastweight_mem.head_gates", 0)?;
    let inner = s.dim("layers.0.0.to_qkv.weight", 0)? / 3;
    Some(("infini", json!({ "heads": heads, "dimHead": inner / heads.max(1) })))
}

/// product-key-memory's transformer. Heads of attention are taken to have the package's 64 features where these fit.
fn product_key(s: &Shapes<'_>, depth: usize) -> Option<(&'static str, Value)> {
    let memories = s.layers(depth, "1.keys");
    let first = format!("layers.{}.1", memories.first()?);
    let keys = s.0.shape(&format!("{first}.keys"))?;
    let &[memory_heads, num_keys, _, memory_dim_head] = keys else { return None };
    let inner = s.dim("layers.0.0.to_qkv.weight", 0)? / 3;
    let dim_head = if inner.is_multiple_of(64) { 64 } else { inner };
    let part = |what: &str| s.has(&format!("{first}.{what}"));
    let concat = part("maybe_concat_combine.2.weight");
    Some((
        "pkm",
        json!({
            "seqLen": s.dim("pos_emb.weight", 0)?, "heads": inner / dim_head.max(1), "dimHead": dim_head,
            "numKeys": num_keys, "memoryHeads": memory_heads, "memoryDimHead": memory_dim_head,
            "pkmLayers": memories.iter().map(|i| i + 1).collect::<Vec<_>>(),
            "preLayernorm": part("pre_layernorm.weight"), "useLayernorm": part("norm.weight"),
            "concatValuesAndCombine": concat, "dropGates": concat,
            "normOutput": part("output_norm.weight"),
        }),
    ))
}

/// block-recurrent-transformer-pytorch. A block is taken to be as wide as there are state vectors.
fn recurrent(s: &Shapes<'_>, depth: usize) -> Option<(&'static str, Value)> {
    let dim_head = s.dim("layers.0.0.to_kv.weight", 0)? / 2;
    let inner = s.dim("layers.0.0.to_q.weight", 0)?;
    let flat = s.layers(depth, "0.init_state");
    let own = s.layers(depth, "0.state_container.init_state");
    let place = if flat.is_empty() { "0.state_container.init_state" } else { "0.init_state" };
    let writers = if flat.is_empty() { &own } else { &flat };
    let states = s.dim(&format!("layers.{}.{place}", writers.first()?), 0)?;
    let all_normed = (0..depth).all(|i| s.has(&format!("layers.{i}.0.attn.q_scale")));
    let factor = s.dim("mem_manager.layers.0.1.1.weight", 2);
    Some((
        "recurrent",
        json!({
            "heads": inner / dim_head.max(1), "dimHead": dim_head, "blockWidth": states, "numStateVectors": states,
            "recurrentLayers": writers.iter().map(|i| i + 1).collect::<Vec<_>>(),
            "flatStateNames": !flat.is_empty(), "allLayersQkRmsnorm": all_normed, "compressedMemFactor": factor,
        }),
    ))
}

/// Whether these are the tensors of one of CoLT5-attention's layers.
pub(crate) fn is_colt5(file: &Checkpoint) -> bool {
    let parts = ["routing_token", "null_q_token", "light_attn.", "heavy_attn.", "light_ff.", "heavy_ff."];
    let names = file.names();
    parts.iter().filter(|part| names.iter().any(|name| name.contains(**part))).count() >= 2
}
