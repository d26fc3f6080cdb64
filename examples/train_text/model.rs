//! The models that can be trained, behind one face.

use crate::{Args, Memory};
use std::path::Path;
use wgrad::graph::Mode;
use wgrad::models::conditional::{RoutedDecoder, RoutedDecoderConfig, RoutedStream};
use wgrad::models::infini::{InfiniConfig, InfiniStream, InfiniTransformer, Sampling, SegmentLoss};
use wgrad::models::mix::{MemoryConfig, MemoryStream, MemoryTransformer};
use wgrad::models::product_key::{
    Lookup, PkmStream, PkmTransformer, PkmTransformerConfig, ProductKeyConfig, VALUES, values_group,
};
use wgrad::models::recurrent::{BlockRecurrentConfig, BlockRecurrentTransformer, Carried, RecurrentStream};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{Group, Trainer};
use wgrad::{Device, Error, Result, Var};

/// A byte-level language model.
pub trait Model {
    /// Bytes of a segment, where the options do not say.
    fn segment_length(&self) -> Option<usize> {
        None
    }
    /// Fresh parameters.
    fn init(&self, seed: u64) -> Params;
    /// How to build it again, for checkpoints.
    fn config(&self) -> String;
    /// Parameters that are trained in another way than the rest, where that has the learning rate `lr`.
    fn groups(&self, _lr: f64) -> Vec<(&'static str, Group)> {
        Vec::new()
    }
    /// Mean cross entropy of the next byte over ids `[batch, length + 1]`.
    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g>;
    /// Goes on from a prompt (not empty).
    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>>;
}

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

/// How the sample at the end is drawn.
const SAMPLING: Sampling = Sampling { temperature: 0.8, top_k: None, top_p: Some(0.9) };

struct Infini {
    model: InfiniTransformer,
    length: usize,
}

impl Model for Infini {
    fn init(&self, seed: u64) -> Params {
        self.model.init(seed)
    }

    fn config(&self) -> String {
        format!("{:?}", self.model.config())
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        let options = SegmentLoss { segment_length: self.length, ..Default::default() };
        self.model.segment_loss(params, ids, options, Mode::Train)
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = pollster::block_on(self.model.stream_plans(device, trainer.params(), 1, self.length))?;
        let mut stream = InfiniStream::new(&plans)?;
        stream.feed(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}

impl Model for RoutedDecoder {
    fn init(&self, seed: u64) -> Params {
        RoutedDecoder::init(self, seed)
    }

    fn config(&self) -> String {
        format!("{:?}", RoutedDecoder::config(self))
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        RoutedDecoder::loss(self, params, ids)
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = self.stream_plans(device, trainer.params(), 1, prompt.len() + count);
        let mut stream = RoutedStream::new(&pollster::block_on(plans)?)?;
        stream.feed(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}

impl Model for BlockRecurrentTransformer {
    fn init(&self, seed: u64) -> Params {
        BlockRecurrentTransformer::init(self, seed)
    }

    fn config(&self) -> String {
        format!("{:?}", BlockRecurrentTransformer::config(self))
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        BlockRecurrentTransformer::loss(self, params, ids, &Carried::default()).0
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = pollster::block_on(self.stream_plans(device, trainer.params(), 1))?;
        let mut stream = RecurrentStream::new(&plans)?;
        stream.feed(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}

/// Learning rate of the values of a product-key memory.
const VALUES_LR: f64 = 1e-2;

impl Model for PkmTransformer {
    fn init(&self, seed: u64) -> Params {
        PkmTransformer::init(self, seed)
    }

    fn config(&self) -> String {
        format!("{:?}", PkmTransformer::config(self))
    }

    fn groups(&self, lr: f64) -> Vec<(&'static str, Group)> {
        vec![(VALUES, values_group(lr, VALUES_LR))]
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        PkmTransformer::loss(self, params, ids, &Lookup::new(Mode::Train, 0)).0
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = pollster::block_on(self.stream_plans(device, trainer.params(), 1))?;
        let mut stream = PkmStream::new(&plans)?;
        stream.feed_blocking(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}

impl Model for MemoryTransformer {
    fn segment_length(&self) -> Option<usize> {
        Some(MemoryTransformer::config(self).segment)
    }

    fn init(&self, seed: u64) -> Params {
        MemoryTransformer::init(self, seed)
    }

    fn config(&self) -> String {
        MemoryTransformer::config(self).to_json()
    }

    fn groups(&self, lr: f64) -> Vec<(&'static str, Group)> {
        MemoryTransformer::groups(self, lr, VALUES_LR)
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        MemoryTransformer::loss(self, params, ids)
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = pollster::block_on(self.stream_plans(device, trainer.params(), 1))?;
        let mut stream = MemoryStream::new(&plans)?;
        stream.feed(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}
