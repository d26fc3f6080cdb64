//! The kinds of attention, behind one face: a segment with what is carried of those before it.

use super::config::{AttentionKind, MemoryConfig};
use super::routed::RoutedAttention;
use super::window::WindowAttention;
use crate::error::Result;
use crate::graph::{Mode, Var};
use crate::models::infini::{self, CausalAttention, InfiniConfig};
use crate::models::long_memory::{LongMemory, RoutedMemory};
use crate::models::parts::below;
use crate::models::recurrent::{self, AttentionBlock, AttentionBlockConfig, StateContainerConfig, States};
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

/// What a kind of attention does.
pub(super) trait Attention {
    /// Names and types of what `batch` texts carry from segment to segment. All zeros are as good as none.
    fn carries(&self, batch: usize) -> Vec<(&'static str, TensorType)>;

    /// Attention of a segment `x` `[b, n, D]`, without residual, and what the next one gets. It never looks ahead: a segment
    /// may be filled up with anything.
    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, past: Past<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>);

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
        let segment = config.segment;
        let windows = |params: &mut Params, context, window| {
            WindowAttention::new(params, name, (config.dim, config.heads, config.dim_head()), context, window)
        };
        Ok(match *kind {
            AttentionKind::Full { context } => Kind::Window(windows(params, context, None)),
            AttentionKind::Local { window } => Kind::Window(windows(params, window - 1, Some(window))),
            AttentionKind::Infini { delta_rule, head_gate } => {
                let config = InfiniConfig {
                    heads: config.heads,
                    dim_head: config.dim_head(),
                    use_mem_delta_rule: delta_rule,
                    head_gate_init_value: head_gate,
                    ..InfiniConfig::new(config.num_tokens, config.dim, 1)
                };
                let attention = CausalAttention::new(format!("{name}."), &config, 0);
                attention.declare(params);
                Kind::Infini(InfiniAttention { attention, config })
            }
            AttentionKind::Recurrent { states, gate, gates } => {
                let states = StateContainerConfig {
                    dim: config.dim,
                    num_state_vectors: states.unwrap_or(segment),
                    dim_head: config.dim_head(),
                    heads: config.heads,
                    qk_rmsnorm: true,
                    qk_rmsnorm_scale: None,
                    gate,
                    gates,
                    ff_inner: config.inner(config.ff_mult),
                    init_std: 0.1,
                };
                let block = AttentionBlockConfig {
                    dim_head: config.dim_head(),
                    heads: config.heads,
                    qk_rmsnorm: true,
                    states: Some(states),
                    state_reads: 1,
                    ..AttentionBlockConfig::new(config.dim, segment)
                };
                Kind::Recurrent(Box::new(RecurrentAttention { block: AttentionBlock::new(params, name, block) }))
            }
            AttentionKind::Routed { memories, selected, heavy_queries, window } => {
                let window = window.unwrap_or(segment);
                let light = WindowAttention::new(
                    params,
                    &below(name, "light_attn"),
                    (config.dim, config.heads, config.dim_head()),
                    window - 1,
                    Some(window),
                );
                let keys = (memories, selected.unwrap_or(segment));
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

/// Infini-attention: `kv` `[b, h, d, d]` and `norm` `[b, h, d]`.
#[derive(Clone, Debug)]
pub(super) struct InfiniAttention {
    attention: CausalAttention,
    config: InfiniConfig,
}

impl Attention for InfiniAttention {
    fn carries(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let (h, d) = (self.config.heads, self.config.dim_head);
        vec![("kv", TensorType::f32([batch, h, d, d])), ("norm", TensorType::f32([batch, h, d]))]
    }

    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, past: Past<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let written = past.seen.map(|seen| seen.gt(0));
        let memory = match *past.values {
            [kv, norm] => {
                // A text that begins anew does not add to what the last one left.
                let own = |x: Var<'g>, shape: &[usize]| written.map_or(x, |w| w.reshape(shape).select(x, 0.0));
                let b = x.dim(0);
                let memory = infini::Memory { kv: own(kv, &[b, 1, 1, 1]), norm: own(norm, &[b, 1, 1]) };
                Some((memory, written))
            }
            _ => None,
        };
        let (out, next) = self.attention.forward_from(p, x, memory, true, Mode::Eval, 0);
        (out, next.map_or(Vec::new(), |next| vec![next.kv, next.norm]))
    }
}

/// Block-recurrent attention: `keys` and `values` `[b, W, d]` of the segment before, and `states` `[b, N, D]`.
#[derive(Clone, Debug)]
pub(super) struct RecurrentAttention {
    block: AttentionBlock,
}

impl Attention for RecurrentAttention {
    fn carries(&self, batch: usize) -> Vec<(&'static str, TensorType)> {
        let c = self.block.config();
        let memory = TensorType::f32([batch, c.block_width, c.dim_head]);
        let mut all = vec![("keys", memory.clone()), ("values", memory)];
        all.extend(self.block.states().map(|bank| ("states", bank.ty(batch))));
        all
    }

    fn forward<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, past: Past<'_, 'g>) -> (Var<'g>, Vec<Var<'g>>) {
        let (memory, states) = match *past.values {
            [keys, values, vectors] => {
                let rows = x.graph().full_u32([], keys.dim(1) as u32);
                let count = past.seen.map(|seen| seen.minimum(rows));
                let states = States { vectors, written: past.seen.map(|seen| seen.gt(0)) };
                (Some(recurrent::Memory { keys, values, count }), Some(states))
            }
            _ => (None, None),
        };
        let bank = self.block.states();
        let view = bank.map(|bank| bank.view(p, states.as_ref()));
        let reads: Vec<_> =
            bank.zip(view.as_ref()).map(|(bank, view)| (bank, bank.readable(p, view))).into_iter().collect();
        let found = self.block.forward(p, x, memory.as_ref(), &reads, view.as_ref());
        let mut next = vec![found.memory.keys, found.memory.values];
        next.extend(found.states);
        (found.out, next)
    }
}
