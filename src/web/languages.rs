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
use crate::models::mix::{MemoryConfig, MemoryStream, MemoryTransformer};
use crate::models::product_key::{
    Lookup, PkmStream, PkmTransformer, PkmTransformerConfig, ProductKeyConfig, Recall, VALUES, values_group,
};
use crate::models::recurrent::{
    BlockRecurrentConfig, BlockRecurrentTransformer, Carried, RecurrentStream, RecurrentTrainerWrapper,
};
use crate::nn::{ParamVars, Params};
use crate::ops::select::Sampling;
use crate::train::Group;
use crate::types::Tensor;
use std::rc::Rc;

/// A language model.
pub(super) trait Language {
    /// Fresh parameters.
    fn init(&self, seed: u64) -> Params;
    /// Mean cross entropy of the next token over ids `[batch, length + 1]`.
    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g>;
    /// Logits `[batch, length, num_tokens]` of ids `[batch, length]`.
    fn logits<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g>;
    /// Mean cross entropy of labels `[batch, length]` of their own, of which `u32::MAX` does not count.
    fn labelled<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>, labels: Var<'g>) -> Var<'g> {
        rows(self.logits(params, ids)).cross_entropy_mean(labels.reshape([labels.shape().numel()]), None)
    }
    /// The loss of sparse fine-tuning, where only `slots` (u32 0/1) of the memories learn.
    fn sparse<'g>(&self, _params: &ParamVars<'g>, _ids: Var<'g>, _slots: Var<'g>) -> Option<Var<'g>> {
        None
    }
    /// Slots that a mask of [`sparse`](Self::sparse) has.
    fn slots(&self) -> usize {
        0
    }
    /// Cross entropy `[batch, length]` of each next token.
    fn losses<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        let (b, n) = (ids.dim(0), ids.dim(1).saturating_sub(1));
        let labels = ids.slice(1, 1, n).reshape([b * n]);
        rows(self.logits(params, ids.slice(1, 0, n))).cross_entropy(labels, None).reshape([b, n])
    }
    /// What a model of this kind shows beside losses, by name.
    fn look<'g>(&self, _params: &ParamVars<'g>, _ids: Var<'g>) -> Vec<(String, Var<'g>)> {
        Vec::new()
    }
    /// The model for one text that is read in pieces of `length` tokens; none where it carries nothing from one to the next.
    fn pieces(&self, _length: usize) -> Result<Option<RecurrentTrainerWrapper>> {
        Ok(None)
    }
    /// Groups of parameters with rules of their own, at this learning rate; that of memories' values may be given.
    fn groups(&self, _lr: f64, _values_lr: Option<f64>) -> Vec<(&'static str, Group)> {
        Vec::new()
    }
    /// Compiles what one text is read and continued by; at most `capacity` tokens where that is bounded.
    fn open<'a>(&'a self, device: &'a Device, params: &'a Params, capacity: usize) -> Local<'a, Box<dyn Reader>>;
}

/// `[.., n]` as `[rows, n]`.
fn rows(x: Var<'_>) -> Var<'_> {
    let n = x.dim(-1);
    x.reshape([x.shape().numel() / n.max(1), n])
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
    /// The state, where it can be looked at.
    fn store(&self) -> Option<&Store> {
        None
    }
}

macro_rules! reader {
    ($stream:ty $(, $store:ident)?) => {
        impl Reader for $stream {
            $(fn $store(&self) -> Option<&Store> {
                Some(<$stream>::$store(self))
            })?
            fn feed<'a>(&'a mut self, parameters: &'a Store, tokens: &'a [u32]) -> Local<'a, ()> {
                Box::pin(async move { <$stream>::feed(self, parameters, &[tokens]) })
            }
            reader!(@same $stream);
        }
    };
    (@same $stream:ty) => {
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
    };
}

/// Builds the model of a kind.
pub(super) fn build(kind: &str, options: &str) -> Result<Rc<dyn Language>> {
    let what = "model";
    if kind == "mix" {
        return Ok(Rc::new(MemoryTransformer::new(MemoryConfig::from_json(options)?)?));
    }
    let mut s = Settings::parse(what, options)?;
    let model: Rc<dyn Language> = match kind {
        "infini" => Rc::new(infini(&mut s)?),
        "pkm" => Rc::new(pkm(&mut s)?),
        "recurrent" => Rc::new(recurrent(&mut s)?),
        "routed" => Rc::new(routed(&mut s)?),
        other => return Err(Error::argument(what, format!("no kind of model is called \"{other}\""))),
    };
    s.finish()?;
    Ok(model)
}

/// Infini-attention; trained in segments.
struct Infini {
    model: InfiniTransformer,
    segment: usize,
    /// Segments that gradients cross.
    detach: usize,
}

impl Infini {
    fn options(&self) -> SegmentLoss {
        let (segment_length, detach_mems_every_num_segments) = (self.segment, self.detach);
        SegmentLoss { segment_length, detach_mems_every_num_segments, ..Default::default() }
    }
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
    let (segment, detach) = (s.get("segmentLength", 128)?, s.get("detachEvery", 2)?);
    Ok(Infini { segment, detach, model: InfiniTransformer::new(c)? })
}

impl Language for Infini {
    fn init(&self, seed: u64) -> Params {
        self.model.init(seed)
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.model.segment_loss(params, ids, self.options(), Mode::Train)
    }

    fn logits<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.model.forward(params, ids, None, false, Mode::Eval, 0).0
    }

    fn labelled<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>, labels: Var<'g>) -> Var<'g> {
        self.model.segment_loss_of(params, ids, labels, self.options(), Mode::Train)
    }

    fn losses<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.model.segment_losses(params, ids, self.options())
    }

    fn open<'a>(&'a self, device: &'a Device, params: &'a Params, _capacity: usize) -> Local<'a, Box<dyn Reader>> {
        Box::pin(async move {
            let plans = self.model.stream_plans(device, params, 1, self.segment).await?;
            Ok(Box::new(InfiniStream::new(&plans)?) as Box<dyn Reader>)
        })
    }
}

reader!(InfiniStream, store);

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

    fn logits<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.forward(params, ids)
    }

    fn look<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Vec<(String, Var<'g>)> {
        let ids = ids.slice(1, 0, ids.dim(1).saturating_sub(1));
        self.router_scores(params, ids).into_iter().enumerate().map(|(i, s)| (format!("scores.{i}"), s)).collect()
    }

    fn open<'a>(&'a self, device: &'a Device, params: &'a Params, capacity: usize) -> Local<'a, Box<dyn Reader>> {
        Box::pin(async move {
            let plans = self.stream_plans(device, params, 1, capacity).await?;
            Ok(Box::new(RoutedStream::new(&plans)?) as Box<dyn Reader>)
        })
    }
}

reader!(RoutedStream);

/// A transformer with product-key memories; their values learn at a rate of their own.
struct Pkm {
    model: PkmTransformer,
    values_lr: f64,
}

fn pkm(s: &mut Settings) -> Result<Pkm> {
    let mut memory = ProductKeyConfig::new(s.need("dim")?);
    s.set("memoryHeads", &mut memory.heads)?;
    s.set("memoryDimHead", &mut memory.dim_head)?;
    s.set("numKeys", &mut memory.num_keys)?;
    memory.topk = s.get("topk", memory.num_keys.min(32))?;
    s.set("preLayernorm", &mut memory.pre_layernorm)?;
    s.set("useLayernorm", &mut memory.use_layernorm)?;
    s.set("concatValuesAndCombine", &mut memory.concat_values_and_combine)?;
    s.set("dropGates", &mut memory.drop_gates)?;
    s.set("normOutput", &mut memory.norm_output)?;
    let depth = s.need("depth")?;
    let mut c = PkmTransformerConfig::new(s.get("numTokens", 256)?, depth, s.get("seqLen", 256)?, memory);
    c.heads = s.get("heads", c.heads)?;
    c.dim_head = s.get("dimHead", (c.memory.dim / c.heads.max(1)).max(1))?;
    c.pkm_layers = s.get("pkmLayers", vec![depth.div_ceil(2)])?;
    s.set("recompute", &mut c.recompute)?;
    Ok(Pkm { values_lr: s.get("valuesLr", 1e-2)?, model: PkmTransformer::new(c)? })
}

impl Language for Pkm {
    fn init(&self, seed: u64) -> Params {
        self.model.init(seed)
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.model.loss(params, ids, &Lookup::new(Mode::Train, 0)).0
    }

    fn logits<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.model.forward(params, ids, Mode::Eval)
    }

    fn sparse<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>, slots: Var<'g>) -> Option<Var<'g>> {
        Some(self.model.loss(params, ids, &Lookup::new(Mode::Train, 0).trainable(slots)).0)
    }

    fn slots(&self) -> usize {
        self.model.config().memory.slots()
    }

    fn look<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Vec<(String, Var<'g>)> {
        let ids = ids.slice(1, 0, ids.dim(1).saturating_sub(1));
        let (_, recalls) = self.model.features(params, ids, &Lookup::new(Mode::Eval, 0));
        let named = |(i, r): (usize, Recall<'g>)| [(format!("slots.{i}"), r.slots), (format!("gates.{i}"), r.gates)];
        recalls.into_iter().enumerate().flat_map(named).collect()
    }

    fn groups(&self, lr: f64, values_lr: Option<f64>) -> Vec<(&'static str, Group)> {
        let values_lr = values_lr.unwrap_or(self.values_lr);
        let any = self.model.config().pkm_layers.iter().any(|l| (1..=self.model.config().depth).contains(l));
        if any { vec![(VALUES, values_group(lr, values_lr))] } else { Vec::new() }
    }

    fn open<'a>(&'a self, device: &'a Device, params: &'a Params, _capacity: usize) -> Local<'a, Box<dyn Reader>> {
        Box::pin(async move {
            let plans = self.model.stream_plans(device, params, 1).await?;
            Ok(Box::new(PkmStream::new(&plans)?) as Box<dyn Reader>)
        })
    }
}

impl Reader for PkmStream {
    fn feed<'a>(&'a mut self, parameters: &'a Store, tokens: &'a [u32]) -> Local<'a, ()> {
        Box::pin(async move { PkmStream::feed(self, parameters, &[tokens]).await })
    }
    reader!(@same PkmStream);
}

fn recurrent(s: &mut Settings) -> Result<BlockRecurrentTransformer> {
    let mut c = BlockRecurrentConfig::new(s.get("numTokens", 256)?, s.need("dim")?, s.need("depth")?);
    s.set("heads", &mut c.heads)?;
    c.dim_head = s.get("dimHead", (c.dim / c.heads.max(1)).max(2))?;
    c.block_width = s.get("blockWidth", 64)?;
    c.max_seq_len = s.get("maxSeqLen", 16 * c.block_width)?;
    s.set("ffMult", &mut c.ff_mult)?;
    s.set("recurrentLayers", &mut c.recurrent_layers)?;
    s.set("numStateVectors", &mut c.num_state_vectors)?;
    s.set("xlMemoriesLayers", &mut c.xl_memories_layers)?;
    s.set("compressedMemFactor", &mut c.compressed_mem_factor)?;
    s.set("allLayersQkRmsnorm", &mut c.all_layers_qk_rmsnorm)?;
    s.set("flatStateNames", &mut c.flat_state_names)?;
    s.set("recompute", &mut c.recompute)?;
    BlockRecurrentTransformer::new(c)
}

impl Language for BlockRecurrentTransformer {
    fn init(&self, seed: u64) -> Params {
        BlockRecurrentTransformer::init(self, seed)
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        BlockRecurrentTransformer::loss(self, params, ids, &Carried::default()).0
    }

    fn logits<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.forward(params, ids, &Carried::default()).0
    }

    fn pieces(&self, length: usize) -> Result<Option<RecurrentTrainerWrapper>> {
        let config = BlockRecurrentConfig { max_seq_len: length, ..self.config().clone() };
        Ok(Some(RecurrentTrainerWrapper::new(BlockRecurrentTransformer::new(config)?)))
    }

    fn open<'a>(&'a self, device: &'a Device, params: &'a Params, _capacity: usize) -> Local<'a, Box<dyn Reader>> {
        Box::pin(async move {
            let plans = self.stream_plans(device, params, 1).await?;
            Ok(Box::new(RecurrentStream::new(&plans)?) as Box<dyn Reader>)
        })
    }
}

reader!(RecurrentStream, store);

impl Language for MemoryTransformer {
    fn init(&self, seed: u64) -> Params {
        MemoryTransformer::init(self, seed)
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        MemoryTransformer::loss(self, params, ids)
    }

    fn logits<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        self.forward(params, ids, &self.fresh(ids.graph(), ids.dim(0))).0
    }

    fn groups(&self, lr: f64, values_lr: Option<f64>) -> Vec<(&'static str, Group)> {
        MemoryTransformer::groups(self, lr, values_lr.unwrap_or(1e-2))
    }

    fn open<'a>(&'a self, device: &'a Device, params: &'a Params, _capacity: usize) -> Local<'a, Box<dyn Reader>> {
        Box::pin(async move {
            let plans = self.stream_plans(device, params, 1).await?;
            Ok(Box::new(MemoryStream::new(&plans)?) as Box<dyn Reader>)
        })
    }
}

reader!(MemoryStream, store);
