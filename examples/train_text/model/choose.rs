//! Which model the options ask for.

use super::Model;
use super::infini::Infini;
use crate::args::Args;
use crate::kinds::Memory;
use std::path::Path;
use wgrad::models::conditional::{RoutedDecoder, RoutedDecoderConfig};
use wgrad::models::infini::{InfiniConfig, InfiniTransformer};
use wgrad::models::mix::{MemoryConfig, MemoryTransformer};
use wgrad::models::product_key::{PkmTransformer, PkmTransformerConfig, ProductKeyConfig};
use wgrad::models::recurrent::{BlockRecurrentConfig, BlockRecurrentTransformer};
use wgrad::{Error, Result};

/// The model that the options describe.
pub fn model(args: &Args) -> Result<Box<dyn Model>> {
    if let Some(path) = &args.config {
        return Ok(Box::new(described(path)?));
    }
    if !args.dim.is_multiple_of(args.heads) {
        let message = format!("--dim {} is no multiple of --heads {}", args.dim, args.heads);
        return Err(Error::argument("heads", message));
    }
    let dim_head = args.dim / args.heads;
    Ok(match args.memory {
        Memory::Infini => {
            let config = InfiniConfig {
                heads: args.heads,
                dim_head,
                // The package's gates start almost without memory; short runs learn faster with half-open ones.
                head_gate_init_value: 0.0,
                ..InfiniConfig::new(256, args.dim, args.depth)
            };
            Box::new(Infini { model: InfiniTransformer::new(config)?, length: args.segment_length })
        }
        Memory::Routed => {
            let (window, keys) = (args.segment_length, args.heavy_keys.unwrap_or(args.segment_length));
            let config = RoutedDecoderConfig::new(256, args.dim, args.depth, args.heads, window, keys);
            Box::new(RoutedDecoder::new(config)?)
        }
        Memory::Recurrent => {
            let config = BlockRecurrentConfig {
                heads: args.heads,
                dim_head,
                block_width: args.segment_length,
                // The package's own, which it does not use; short runs learn faster with it.
                qk_rmsnorm_scale: Some(8.0),
                // Gradients flow through states and memories of the whole text.
                max_seq_len: args.segments.saturating_mul(args.segment_length),
                ..BlockRecurrentConfig::new(256, args.dim, args.depth)
            };
            Box::new(BlockRecurrentTransformer::new(config)?)
        }
        Memory::Pkm => {
            let memory = ProductKeyConfig {
                heads: args.heads,
                num_keys: args.pkm_keys,
                topk: args.pkm_keys.min(32),
                dim_head: args.dim.div_ceil(2),
                ..ProductKeyConfig::new(args.dim)
            };
            let seq_len = args.segments.saturating_mul(args.segment_length);
            let config = PkmTransformerConfig::new(256, args.depth, seq_len, memory);
            let pkm_layers = vec![args.depth.div_ceil(2)];
            let config = PkmTransformerConfig { heads: args.heads, dim_head, pkm_layers, ..config };
            Box::new(PkmTransformer::new(config)?)
        }
    })
}

/// The model that a file describes.
fn described(path: &Path) -> Result<MemoryTransformer> {
    let place = path.display().to_string();
    let failed = |message: String| Error::Io { path: place.clone(), message };
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let config = MemoryConfig::from_json(&text).map_err(|e| failed(e.to_string()))?;
    if config.num_tokens < 256 {
        return Err(failed(format!("num_tokens is {}; a text of bytes needs 256", config.num_tokens)));
    }
    MemoryTransformer::new(config).map_err(|e| failed(e.to_string()))
}
