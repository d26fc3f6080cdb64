//! The description of a model, as JSON.

use crate::error::{Error, Result};
use crate::models::parts::within;
use crate::models::recurrent::{GateConfiguration, GateKind};
use crate::train::Checkpoint;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A [`MemoryTransformer`](super::MemoryTransformer): what each layer is made of.
///
/// ```
/// # use wgrad::models::mix::MemoryConfig;
/// let config = MemoryConfig::from_json(r#"{
///     "num_tokens": 256, "dim": 64, "heads": 4, "segment": 32,
///     "layers": [
///         {"attention": {"kind": "infini"}},
///         {"attention": {"kind": "recurrent"}, "feed_forward": {"kind": "product_key", "num_keys": 64}},
///         {"attention": {"kind": "routed", "memories": 1024}, "feed_forward": {"kind": "routed", "heavy_tokens": 8}},
///         {"attention": {"kind": "local", "window": 32}, "long_memory": {"memories": 4096, "selected": 32}}
///     ]
/// }"#)?;
/// let refused = MemoryConfig::from_json(r#"{"num_tokens": 256, "dim": 64, "segment": 32,
///     "layers": [{"attention": {"kind": "local", "windw": 32}}]}"#);
/// let message = refused.unwrap_err().to_string();
/// assert!(message.contains("layers[0].attention: unknown field `windw`, expected `window`"), "{message}");
/// # Ok::<(), wgrad::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// Vocabulary.
    pub num_tokens: usize,
    /// Features of a token.
    pub dim: usize,
    /// Tokens of a segment, in all layers: what is carried is written once a segment.
    pub segment: usize,
    /// Heads of every attention.
    #[serde(default = "default::heads")]
    pub heads: usize,
    /// Features of a head, an even number. None: `dim / heads`.
    #[serde(default)]
    pub dim_head: Option<usize>,
    /// Inner features of feed-forwards with a gated activation are `int(ff_mult * dim * 2 / 3)`.
    #[serde(default = "default::ff_mult")]
    pub ff_mult: f64,
    /// Recompute each layer's values in the backward pass instead of keeping them.
    #[serde(default)]
    pub recompute: bool,
    /// The layers, the first next to the tokens.
    pub layers: Vec<LayerConfig>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerConfig {
    /// How tokens see each other and the past.
    pub attention: AttentionKind,
    /// What follows.
    #[serde(default)]
    pub feed_forward: FeedForwardKind,
    /// A memory of the layer's inputs beside the attention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_memory: Option<LongMemoryConfig>,
}

/// How the tokens of a segment see each other and what came before. All are causal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AttentionKind {
    /// All of the segment up to the token itself, and so many tokens before the segment.
    Full {
        /// Tokens before the segment whose keys and values are kept (Dai et al. 2019, arXiv 1901.02860).
        #[serde(default)]
        context: usize,
    },
    /// A sliding window.
    Local {
        /// Tokens that a token sees, itself included.
        window: usize,
    },
    /// The segment, and a matrix into which all segments before it were compressed (Munkhdalai et al. 2024, arXiv
    /// 2404.07143).
    Infini {
        /// Write only what the memory does not already return.
        #[serde(default)]
        delta_rule: bool,
        /// Initial value of the gates between local attention (sigmoid 1) and memory (sigmoid 0).
        #[serde(default)]
        head_gate: f64,
    },
    /// The segment, the one before, and state vectors that are written once a segment (Hutchins et al. 2022, arXiv
    /// 2203.07852).
    Recurrent {
        /// State vectors. None: as many as a segment has tokens.
        #[serde(default)]
        states: Option<usize>,
        /// What the gates of the states compute.
        #[serde(default)]
        gate: GateKind,
        /// Where the gates stand.
        #[serde(default)]
        gates: GateConfiguration,
    },
    /// CoLT5's attention for decoders (Ainslie et al. 2023, arXiv 2303.09752): all tokens see the window, and those that a
    /// router chooses also see keys that another chooses among the inputs of all segments before, up to so many.
    Routed {
        /// Past inputs that keys are chosen from.
        #[serde(default = "default::memories")]
        memories: usize,
        /// Keys that are chosen for a segment. None: as many as a segment has tokens.
        #[serde(default)]
        selected: Option<usize>,
        /// Tokens of a segment, at most, that see them. None: all.
        #[serde(default)]
        heavy_queries: Option<usize>,
        /// Tokens that all tokens see, themselves included. None: as many as a segment has.
        #[serde(default)]
        window: Option<usize>,
    },
}

/// What follows attention in a layer.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FeedForwardKind {
    /// Two linear maps with a gated activation between (GEGLU, Shazeer 2020, arXiv 2002.05202).
    #[default]
    Dense,
    /// CoLT5's feed-forward: a narrow one for all tokens, and a wide one for those that a router chooses.
    Routed {
        /// Tokens of a segment, at most, that go through the wide one.
        heavy_tokens: usize,
        /// `ff_mult` of the narrow one.
        #[serde(default = "default::light_mult")]
        light_mult: f64,
    },
    /// A table of `num_keys²` values of which each token reads a few (Lample et al. 2019, arXiv 1907.05242).
    ProductKey {
        /// Sub-keys of each half.
        #[serde(default = "default::num_keys")]
        num_keys: usize,
        /// Values that a head reads for a token; at most `num_keys`. None: 32, or all.
        #[serde(default)]
        topk: Option<usize>,
        /// Heads; each has sub-keys of its own.
        #[serde(default = "default::pkm_heads")]
        heads: usize,
    },
}

/// A memory of past inputs of which a router picks a few for each segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongMemoryConfig {
    /// Inputs that are kept.
    pub memories: usize,
    /// Inputs that are picked for a segment.
    pub selected: usize,
    /// Newest inputs that the router looks at before it picks; 0: none. Not given: 64, or all.
    #[serde(default)]
    pub lookback: Option<usize>,
    /// Keep them in half precision.
    #[serde(default)]
    pub half: bool,
}

mod default {
    pub fn heads() -> usize {
        8
    }
    pub fn ff_mult() -> f64 {
        4.0
    }
    pub fn memories() -> usize {
        4096
    }
    pub fn light_mult() -> f64 {
        0.5
    }
    pub fn num_keys() -> usize {
        128
    }
    pub fn pkm_heads() -> usize {
        4
    }
}

impl MemoryConfig {
    /// Reads a description.
    ///
    /// # Errors
    /// [`Error::Argument`], with the place of the mistake, for text that is no JSON, a field that is missing, unknown
    /// or of another type, and values that [`check`](Self::check) refuses.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|e| refused("", &e.to_string()))?;
        // Part by part first: the message of the whole does not say where in it.
        for (i, layer) in value.get("layers").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let place = format!("layers[{i}]");
            part::<AttentionKind>(layer, &place, "attention")?;
            part::<FeedForwardKind>(layer, &place, "feed_forward")?;
            part::<LongMemoryConfig>(layer, &place, "long_memory")?;
            read::<LayerConfig>(layer, &place)?;
        }
        let config: MemoryConfig = read(&value, "")?;
        config.check()?;
        Ok(config)
    }

    /// The description in a file of a trainer that was given [`to_json`](Self::to_json) as its
    /// [`config`](crate::train::TrainerBuilder::config).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file without a description; else as [`from_json`](Self::from_json).
    pub fn from_checkpoint(file: &Checkpoint) -> Result<Self> {
        match file.metadata("wgrad.config") {
            Some(text) => Self::from_json(text),
            None => Err(Error::checkpoint(None, "has no wgrad.config; expected a file that a trainer saved")),
        }
    }

    /// The description as JSON: what [`from_json`](Self::from_json) reads.
    pub fn to_json(&self) -> String {
        // All keys are text and numbers that JSON lacks become null, so that nothing can fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Features of a head.
    pub fn dim_head(&self) -> usize {
        self.dim_head.unwrap_or(self.dim.checked_div(self.heads).unwrap_or(0))
    }

    /// Inner features of a feed-forward.
    pub(super) fn inner(&self, mult: f64) -> usize {
        (mult * self.dim as f64 * 2.0 / 3.0) as usize
    }

    /// Refuses values no model can have.
    ///
    /// # Errors
    /// [`Error::Argument`] names the place, such as `layers[1]`, and says what it may be; [`Error::Limit`] for a matrix
    /// with more elements than a tensor can have.
    pub fn check(&self) -> Result<()> {
        let counts = [("num_tokens", self.num_tokens), ("dim", self.dim), ("segment", self.segment)];
        for (what, value) in counts.into_iter().chain([("heads", self.heads), ("layers", self.layers.len())]) {
            at_least_one(what, value)?;
        }
        if self.dim_head.is_none() && !self.dim.is_multiple_of(self.heads) {
            let message = format!("{} is no multiple of the {} heads; give dim_head", self.dim, self.heads);
            return Err(refused("dim", &message));
        }
        let dim_head = self.dim_head();
        if dim_head == 0 || !dim_head.is_multiple_of(2) {
            let message = format!("is {dim_head}; expected an even number, for the rotary embedding");
            return Err(refused("dim_head", &message));
        }
        self.check_mult("ff_mult", self.ff_mult)?;
        let inner = self.heads.saturating_mul(dim_head);
        within("MemoryConfig: token_emb.weight", &[self.num_tokens, self.dim])?;
        within("MemoryConfig: the attention", &[inner, 3, self.dim])?;
        within("MemoryConfig: the segment", &[self.segment, self.segment])?;
        self.layers.iter().enumerate().try_for_each(|(i, layer)| self.check_layer(&format!("layers[{i}]"), layer))
    }

    fn check_mult(&self, place: &str, mult: f64) -> Result<()> {
        if !mult.is_finite() || self.inner(mult) == 0 {
            return Err(refused(place, &format!("is {mult}, which gives no inner features; raise it")));
        }
        within(&format!("MemoryConfig: {place}"), &[2, self.inner(mult), self.dim])
    }

    fn check_layer(&self, place: &str, layer: &LayerConfig) -> Result<()> {
        let attention = |field: &str, value: usize| at_least_one(&format!("{place}.attention.{field}"), value);
        let keys = |field: &str, n: usize| within(&format!("MemoryConfig: {place}.attention.{field}"), &[n, self.dim]);
        match layer.attention {
            AttentionKind::Full { context } => keys("context", context)?,
            AttentionKind::Local { window } => {
                attention("window", window)?;
                keys("window", window)?;
            }
            AttentionKind::Infini { head_gate, .. } if !head_gate.is_finite() => {
                return Err(refused(&format!("{place}.attention.head_gate"), "is not finite"));
            }
            AttentionKind::Infini { .. } => {}
            AttentionKind::Recurrent { states, .. } => {
                attention("states", states.unwrap_or(1))?;
                keys("states", states.unwrap_or(1))?;
            }
            AttentionKind::Routed { memories, selected, heavy_queries, window } => {
                attention("memories", memories)?;
                for (field, value) in [("selected", selected), ("heavy_queries", heavy_queries), ("window", window)] {
                    attention(field, value.unwrap_or(1))?;
                    keys(field, value.unwrap_or(1))?;
                }
            }
        }
        match layer.feed_forward {
            FeedForwardKind::Dense => {}
            FeedForwardKind::Routed { heavy_tokens, light_mult } => {
                at_least_one(&format!("{place}.feed_forward.heavy_tokens"), heavy_tokens)?;
                self.check_mult(&format!("{place}.feed_forward.light_mult"), light_mult)?;
            }
            FeedForwardKind::ProductKey { num_keys, topk, heads } => {
                for (field, value) in [("num_keys", num_keys), ("topk", topk.unwrap_or(1)), ("heads", heads)] {
                    at_least_one(&format!("{place}.feed_forward.{field}"), value)?;
                }
                if let Some(topk) = topk.filter(|topk| *topk > num_keys) {
                    let message = format!("is {topk}, more than the {num_keys} sub-keys of a half; lower it");
                    return Err(refused(&format!("{place}.feed_forward.topk"), &message));
                }
            }
        }
        let Some(long) = &layer.long_memory else { return Ok(()) };
        at_least_one(&format!("{place}.long_memory.memories"), long.memories)?;
        at_least_one(&format!("{place}.long_memory.selected"), long.selected)
    }
}

fn refused(place: &str, message: &str) -> Error {
    let message = if place.is_empty() { message.to_owned() } else { format!("{place}: {message}") };
    Error::argument("MemoryConfig", message)
}

fn at_least_one(place: &str, value: usize) -> Result<()> {
    if value == 0 { Err(refused(place, "is 0; expected at least 1")) } else { Ok(()) }
}

fn read<T: DeserializeOwned>(value: &Value, place: &str) -> Result<T> {
    serde_json::from_value(value.clone()).map_err(|e| refused(place, &e.to_string()))
}

fn part<T: DeserializeOwned>(layer: &Value, place: &str, field: &str) -> Result<()> {
    match layer.get(field) {
        None | Some(Value::Null) => Ok(()),
        Some(value) => read::<T>(value, &format!("{place}.{field}")).map(drop),
    }
}
