//! Checkpoints of the PyTorch packages, told by the names and shapes of their tensors.

use crate::train::Checkpoint;
use serde_json::{Value, json};

/// Shapes of a file's tensors.
struct Shapes<'a>(&'a Checkpoint);

impl Shapes<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn of(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.0.tensor(name).ok()?.shape().to_vec())
    }

    fn dim(&self, name: &str, axis: usize) -> Option<usize> {
        self.of(name)?.get(axis).copied()
    }

    /// Numbers of the layers, from 0 to `depth`, that have a tensor of this name.
    fn layers(&self, depth: usize, end: &str) -> Vec<usize> {
        (0..depth).filter(|i| self.has(&format!("layers.{i}.{end}"))).collect()
    }
}

/// Kind and options of a language model; for what its tensors do not tell, options of the caller win.
pub(super) fn language(file: &Checkpoint) -> Option<(&'static str, Value)> {
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
    let keys = s.of(&format!("{first}.keys"))?;
    let [memory_heads, num_keys, _, memory_dim_head] = keys[..] else { return None };
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
pub(super) fn is_colt5(file: &Checkpoint) -> bool {
    let parts = ["routing_token", "null_q_token", "light_attn.", "heavy_attn.", "light_ff.", "heavy_ff."];
    let names = file.names();
    parts.iter().filter(|part| names.iter().any(|name| name.contains(**part))).count() >= 2
}
