//! The kinds of attention, behind one face: a segment with what is carried of those before it.

use super::config::{AttentionKind, MemoryConfig};
use super::infini::InfiniAttention;
use super::recurrent::RecurrentAttention;
use super::routed::RoutedAttention;
use super::window::{Window, WindowAttention};
use crate::error::Result;
use crate::graph::Var;
use crate::models::long_memory::{LongMemory, Recalled, RoutedMemory};
use crate::models::parts::below;
use crate::nn::{ParamVars, Params};
use crate::types::TensorType;

/// What a layer's attention has of the segments before.
#[derive(Clone, Copy)]
pub(super) struct Past<'a, 'g> {
    /// The values that the last segment left, in the order of [`Attention::carries`]; none at the start of all texts. Those
    /// with rows of past tokens may have fewer rows than fit, as long as those are all there are.
    pub values: &'a [Var<'g>],
    /// Tokens in the segments before, u32 `[b]`, where texts differ in that.
    pub seen: Option<Var<'g>>,
    /// Past inputs, for kinds that have a [`memory`](Attention::memory).
    pub memory: Option<&'a LongMemory<'g>>,
}

/// What a layer's attention has of texts that are read token by token.
#[derive(Clone, Copy)]
pub(super) struct Cached<'a, 'g> {
    /// The cache, in the order of [`Attention::cache`].
    pub values: &'a [Var<'g>],
    /// Tokens that each text has in its segment, u32 `[b]`.
    pub length: Var<'g>,
    /// Tokens in the segments before, u32 `[b]`.
    pub seen: Var<'g>,
    /// What was picked for the segment, for kinds that have a [`memory`](Attention::memory).
    pub recalled: Option<Recalled<'g>>,
}

/// What a kind of attention does.
pub(super) trait Attention {
    /// Names and types of what `batch` texts carry from segment to segment. All zeros are as good as none.
    fn carries(&self, batch: usize) -> Vec<(&'static str, TensorType)>;

    /// Attention of a segment `x` `[b, n, D]`, without residual, and what the next one gets. It never looks ahead: a segment
    /// may be filled up with anything.
    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, past: Past<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>);

    /// Names and types of what `batch` texts that are read token by token have in place of what they [carry](Self::carries):
    /// it, and keys and values of the segment so far. Zeros, once [turned](Self::turn), are the start of a text.
    fn cache(&self, batch: usize) -> Vec<(&'static str, TensorType)>;

    /// [`forward`](Self::forward) for the tokens `x` `[b, n, D]` that come next, and the cache with them in it. What is past the
    /// segment's end is dropped; what stands behind the last token that counts is overwritten by the next ones.
    fn forward_cached<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, cached: &Cached<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>);

    /// The cache for the next segment of the texts marked `full` (u32 0/1 `[b]`), and for more of this one in the others.
    fn turn<'g>(&self, p: &ParamVars<'g>, cached: &Cached<'_, 'g>, full: Var<'g>) -> Vec<Var<'g>>;

    /// The memory of inputs that it reads, if it has one.
    fn memory(&self) -> Option<&RoutedMemory> {
        None
    }
}

/// The attention of a layer.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Window(WindowAttention),
    Infini(InfiniAttention),
    Recurrent(Box<RecurrentAttention>),
    Routed(Box<RoutedAttention>),
}

impl Kind {
    /// Adds the parameters below `name`.
    pub fn new(params: &mut Params, name: &str, config: &MemoryConfig, kind: &AttentionKind) -> Result<Self> {
        let windows = |params: &mut Params, name: &str, context, window| {
            WindowAttention::new(params, name, config, Window { context, seen: window })
        };
        Ok(match *kind {
            AttentionKind::Full { context } => Kind::Window(windows(params, name, context, None)),
            AttentionKind::Local { window } => Kind::Window(windows(params, name, window - 1, Some(window))),
            AttentionKind::Infini { delta_rule, head_gate } => {
                Kind::Infini(InfiniAttention::new(params, name, config, delta_rule, head_gate))
            }
            AttentionKind::Recurrent { states, gate, gates } => {
                let states = states.unwrap_or(config.segment);
                Kind::Recurrent(Box::new(RecurrentAttention::new(params, name, config, states, (gate, gates))))
            }
            AttentionKind::Routed { memories, selected, heavy_queries, window } => {
                let window = window.unwrap_or(config.segment);
                let light = windows(params, &below(name, "light_attn"), window - 1, Some(window));
                let keys = (memories, selected.unwrap_or(config.segment));
                Kind::Routed(Box::new(RoutedAttention::new(params, name, config, light, keys, heavy_queries)?))
            }
        })
    }

    /// What it does.
    pub fn face(&self) -> &dyn Attention {
        match self {
            Kind::Window(attention) => attention,
            Kind::Infini(attention) => attention,
            Kind::Recurrent(attention) => &**attention,
            Kind::Routed(attention) => &**attention,
        }
    }
}
