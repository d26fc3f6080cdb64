//! The language models behind one face. Adding one: a function that reads its options, an entry in [`build`], and the two
//! implementations.

use super::Local;
use super::settings::Settings;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Mode, Var};
use crate::models::conditional::{RoutedDecoder, RoutedDecoderConfig, RoutedStream};
use crate::models::infini::{InfiniConfig, InfiniStream, InfiniTransformer, SegmentLoss};
use crate::nn::{ParamVars, Params};
use crate::ops::select::Sampling;
use crate::train::{Checkpoint, Group};
use crate::types::Tensor;
use std::rc::Rc;

/// A language model.
pub(super) trait Language {
    /// Fresh parameters.
    fn init(&self, seed: u64) -> Params;
    /// Mean cross entropy of the next token over ids `[batch, length + 1]`.
    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g>;
    /// Groups of parameters with rules of their own, at this learning rate.
    fn groups(&self, _lr: f64) -> Vec<(&'static str, Group)> {
        Vec::new()
    }
    /// Compiles what one text is read and continued by; at most `capacity` tokens where that is bounded.
    fn open<'a>(&'a self, device: &'a Device, params: &'a Params, capacity: usize) -> Local<'a, Box<dyn Reader>>;
}

/// A text that is read and continued.
pub(super) trait Reader {
    /// Reads more tokens.
    fn feed<'a>(&'a mut self, parameters: &'a Store, tokens: &'a [u32]) -> Local<'a, ()>;
    /// Continues by `count` tokens.
    fn generate<'a>(&'a mut self, parameters: &'a Store, count: usize, how: Sampling, seed: u64)
    -> Local<'a, Vec<u32>>;
    /// Logits of the next token.
    fn logits<'a>(&'a self) -> Local<'a, Tensor>;
    /// Bytes of the state.
    fn bytes(&self) -> u64;
    /// Tokens read.
    fn tokens(&self) -> u64;
}

macro_rules! reader {
    ($stream:ty, $feed:expr) => {
        impl Reader for $stream {
            fn feed<'a>(&'a mut self, parameters: &'a Store, tokens: &'a [u32]) -> Local<'a, ()> {
                Box::pin(async move { $feed(self, parameters, &[tokens]) })
            }
            fn generate<'a>(&'a mut self, p: &'a Store, count: usize, how: Sampling, seed: u64) -> Local<'a, Vec<u32>> {
                Box::pin(async move { Ok(<$stream>::generate(self, p, count, how, seed).await?.concat()) })
            }
            fn logits<'a>(&'a self) -> Local<'a, Tensor> {
                Box::pin(<$stream>::logits(self))
            }
            fn bytes(&self) -> u64 {
                <$stream>::bytes(self)
            }
            fn tokens(&self) -> u64 {
                self.tokens_read().iter().sum()
            }
        }
    };
}

/// Builds the model of a kind.
pub(super) fn build(kind: &str, options: &str) -> Result<Rc<dyn Language>> {
    let what = "model";
    let mut s = Settings::parse(what, options)?;
    let model: Rc<dyn Language> = match kind {
        "infini" => Rc::new(infini(&mut s)?),
        "routed" => Rc::new(routed(&mut s)?),
        other => return Err(Error::argument(what, format!("no kind of model is called \"{other}\""))),
    };
    s.finish()?;
    Ok(model)
}

/// Kind and options of a checkpoint that was not written here, from the names and shapes of its tensors; for what they do
/// not tell, options of the caller win.
pub(super) fn recognise(file: &Checkpoint) -> Option<(&'static str, serde_json::Value)> {
    let shape = |name: &str| file.tensor(name).ok().map(|t| t.shape().to_vec());
    let layers = |end: &str| (0..).take_while(|i| file.contains(&format!("layers.{i}.{end}"))).count();
    let tokens = shape("token_emb.weight")?;
    let (num_tokens, dim) = (tokens.first()?, tokens.get(1)?);
    let gates = shape("layers.0.0.fastweight_mem.head_gates")?;
    let heads = *gates.first()?;
    let inner = *shape("layers.0.0.to_qkv.weight")?.first()? / 3;
    let options = serde_json::json!({
        "numTokens": num_tokens, "dim": dim, "depth": layers("0.to_qkv.weight"), "heads": heads,
        "dimHead": inner / heads.max(1),
    });
    Some(("infini", options))
}

/// Infini-attention; trained in segments.
struct Infini {
    model: InfiniTransformer,
    segment: usize,
}

fn infini(s: &mut Settings) -> Result<Infini> {
    let mut c = InfiniConfig::new(s.get("numTokens", 256)?, s.need("dim")?, s.need("depth")?);
    s.set("heads", &mut c.heads)?;
    c.dim_head = s.get("dimHead", (c.dim / c.heads.max(1)).max(2))?;
    s.set("ffMult", &mut c.ff_mult)?;
    s.set("attnDropout", &mut c.attn_dropout)?;
    s.set("ffDropout", &mut c.ff_dropout)?;
    s.set("useMemDeltaRule", &mut c.use_mem_delta_rule)?;
    s.set("learnedDeltaUpdate", &mut c.learned_delta_update)?;
    // The package's gates start almost without memory; short runs learn faster with half-open ones.
    c.head_gate_init_value = s.get("headGateInitValue", 0.0)?;
    s.set("recompute", &mut c.recompute)?;
    Ok(Infini { segment: s.get("segmentLength", 128)?, model: InfiniTransformer::new(c)? })
}

impl Language for Infini {
    fn init(&self, seed: u64) -> Params {
        self.model.init(seed)
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        let options = SegmentLoss { segment_length: self.segment, ..Default::default() };
        self.model.segment_loss(params, ids, options, Mode::Train)
    }

    fn open<'a>(&'a self, device: &'a Device, params: &'a Params, _capacity: usize) -> Local<'a, Box<dyn Reader>> {
        Box::pin(async move {
            let plans = self.model.stream_plans(device, params, 1, self.segment).await?;
            Ok(Box::new(InfiniStream::new(&plans)?) as Box<dyn Reader>)
        })
    }
}

reader!(InfiniStream, InfiniStream::feed);

fn routed(s: &mut Settings) -> Result<RoutedDecoder> {
    let (num_tokens, dim, depth) = (s.get("numTokens", 256)?, s.need("dim")?, s.need("depth")?);
    let (heads, window) = (s.get("heads", 8)?, s.get("window", 128)?);
    let mut c = RoutedDecoderConfig::new(num_tokens, dim, depth, heads, window, s.get("heavyKeys", window)?);
    s.set("ffMult", &mut c.ff_mult)?;
    s.set("recompute", &mut c.recompute)?;
    RoutedDecoder::new(c)
}

impl Language for RoutedDecoder {
    fn init(&self, seed: u64) -> Params {
        RoutedDecoder::init(self, seed)
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        RoutedDecoder::loss(self, params, ids)
    }

    fn open<'a>(&'a self, device: &'a Device, params: &'a Params, capacity: usize) -> Local<'a, Box<dyn Reader>> {
        Box::pin(async move {
            let plans = self.stream_plans(device, params, 1, capacity).await?;
            Ok(Box::new(RoutedStream::new(&plans)?) as Box<dyn Reader>)
        })
    }
}

reader!(RoutedStream, RoutedStream::feed);
