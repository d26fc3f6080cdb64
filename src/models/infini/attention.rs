//! Causal attention over a segment, joined with the memory of the segments before.

use super::memory::{FastweightMemory, Memory, features};
use super::{EnhancedRecurrence, InfiniConfig, MemoryPath};
use crate::graph::{Graph, Mode, Var};
use crate::nn::{Init, ParamVars, Params};
use crate::ops::attention::Attention;
use crate::ops::rotary::Rotary;
use crate::types::Tensor;

/// One attention layer. Parameters, below `prefix`: `norm.gamma` `[D]`, `to_qkv.weight` `[3 h d, D]`, `to_out.weight`
/// `[D, h d]`, `fastweight_mem.head_gates` `[h]`, the constant `rotary_emb.freqs` `[d/2]`, and with a learned update
/// `to_learned_delta_update_weights.0.weight` `[h, D]`.
#[derive(Clone, Debug)]
pub struct CausalAttention {
    /// Prefix of the parameter names, with its dot.
    pub prefix: String,
    config: InfiniConfig,
    /// The layer's memory.
    pub memory: FastweightMemory,
    /// First of the sites of the layer's random numbers.
    site: u32,
}

/// Projections of a segment, `[b, h, n, d]` each.
pub(super) struct Heads<'g> {
    pub q: Var<'g>,
    pub k: Var<'g>,
    pub v: Var<'g>,
    /// Write strength `[b, h, n, 1]`, with a learned update.
    pub beta: Option<Var<'g>>,
}

/// Queries and keys as the local attention and as the memory see them.
pub(super) struct Turned<'g> {
    pub q: Var<'g>,
    pub k: Var<'g>,
    pub memory_q: Var<'g>,
    pub memory_k: Var<'g>,
}

impl CausalAttention {
    /// A layer whose parameters lie below `prefix`.
    pub fn new(prefix: impl Into<String>, config: &InfiniConfig, site: u32) -> Self {
        let prefix = prefix.into();
        let gate_name = match config.memory_path {
            MemoryPath::Plain => format!("{prefix}fastweight_mem.head_gates"),
            MemoryPath::Rotated => format!("{prefix}head_gates"),
        };
        let memory = FastweightMemory { gate_name, delta_rule: config.use_mem_delta_rule };
        CausalAttention { prefix, config: config.clone(), memory, site }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Declares the parameters with the package's initial values.
    pub fn declare(&self, params: &mut Params) {
        let c = &self.config;
        let (dim, inner) = (c.dim, c.heads * c.dim_head);
        let bound = |fan_in: usize| Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() };
        params.add(self.name("norm.gamma"), [dim], Init::Ones);
        let freqs = (0..c.dim_head / 2).map(|m| 10_000f64.powf(-2.0 * m as f64 / c.dim_head as f64) as f32).collect();
        params.add(self.name("rotary_emb.freqs"), [c.dim_head / 2], Init::Values(freqs)).buffer();
        params.add(self.name("to_qkv.weight"), [3 * inner, dim], bound(dim));
        params.add(self.name("to_out.weight"), [dim, inner], bound(inner));
        params.add(self.memory.gate_name.clone(), [c.heads], Init::Constant(c.head_gate_init_value as f32));
        if c.learned_delta_update {
            params.add(self.name("to_learned_delta_update_weights.0.weight"), [c.heads, dim], bound(dim));
        }
        let identity = |diagonal: f32| {
            let h = c.heads;
            Init::Values((0..h * h).map(|i| if i / h == i % h { diagonal } else { 0.0 }).collect())
        };
        match c.enhanced_recurrence {
            EnhancedRecurrence::Off => {}
            EnhancedRecurrence::Memories => {
                params.add(self.name("memory_mix.weight"), [c.heads, c.heads], identity(5.0));
            }
            EnhancedRecurrence::KeysValues => {
                params.add(self.name("key_mix.weight"), [c.heads, c.heads], identity(1.0));
                params.add(self.name("value_mix.weight"), [c.heads, c.heads], identity(1.0));
            }
        }
    }

    /// Normalises `x` `[b, n, D]` and projects it.
    #[track_caller]
    pub(super) fn project<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Heads<'g> {
        let (h, d) = (self.config.heads, self.config.dim_head);
        let (b, n) = (x.dim(0), x.dim(1));
        let x = x.rms_norm(p.get(&self.name("norm.gamma")));
        let qkv = x.matmul(p.get(&self.name("to_qkv.weight")).transpose(0, 1)).reshape([b, n, 3, h, d]);
        let part = |i| qkv.slice(2, i, 1).reshape([b, n, h, d]).permute(&[0, 2, 1, 3]);
        let beta = self.config.learned_delta_update.then(|| {
            let weight = p.get(&self.name("to_learned_delta_update_weights.0.weight"));
            x.matmul(weight.transpose(0, 1)).sigmoid().transpose(1, 2).reshape([b, h, n, 1])
        });
        Heads { q: part(0), k: part(1), v: part(2), beta }
    }

    /// Rotates queries and keys to their positions within the segment.
    #[track_caller]
    pub(super) fn turn<'g>(&self, q: Var<'g>, k: Var<'g>, q_positions: Var<'g>, k_positions: Var<'g>) -> Turned<'g> {
        let scale = (self.config.dim_head as f64).powf(-0.5);
        let rotary = Rotary::default();
        let turned_q = (q * scale).rotary(q_positions, &rotary);
        let turned_k = k.rotary(k_positions, &rotary);
        let (memory_q, memory_k) = match self.config.memory_path {
            MemoryPath::Plain => (q, k),
            MemoryPath::Rotated => (turned_q, turned_k),
        };
        Turned { q: turned_q, k: turned_k, memory_q, memory_k }
    }

    /// Attention within the segment; scores are scaled already.
    #[track_caller]
    fn local<'g>(&self, q: Var<'g>, k: Var<'g>, v: Var<'g>, mode: Mode, site: u32) -> Var<'g> {
        let options = Attention { scale: Some(1.0), causal: true, ..Default::default() };
        let p = self.config.attn_dropout;
        if mode == Mode::Eval || p == 0.0 {
            return q.attention(k, v, &options).out;
        }
        // Dropout acts on the probabilities, which the fused kernel never forms.
        q.attention_composed(k, v, &options, |probabilities| probabilities.dropout(p, site, mode))
    }

    #[track_caller]
    pub(super) fn out<'g>(&self, p: &ParamVars<'g>, heads: Var<'g>) -> Var<'g> {
        let (b, h, n, d) = (heads.dim(0), heads.dim(1), heads.dim(2), heads.dim(3));
        let merged = heads.permute(&[0, 2, 1, 3]).reshape([b, n, h * d]);
        merged.matmul(p.get(&self.name("to_out.weight")).transpose(0, 1))
    }

    /// What is written of keys and values: mixed over the heads if memories are passed down that way.
    #[track_caller]
    pub(super) fn written<'g>(&self, p: &ParamVars<'g>, keys: Var<'g>, values: Var<'g>) -> (Var<'g>, Var<'g>) {
        if self.config.enhanced_recurrence != EnhancedRecurrence::KeysValues {
            return (keys, values);
        }
        let mix = |x: Var<'g>, name: &str| mix_heads(p.get(&self.name(name)), x);
        (mix(keys, "key_mix.weight"), mix(values, "value_mix.weight"))
    }

    /// A memory as the layer that reads it next gets it.
    #[track_caller]
    pub(super) fn passed_on<'g>(&self, p: &ParamVars<'g>, memory: Memory<'g>) -> Memory<'g> {
        if self.config.enhanced_recurrence != EnhancedRecurrence::Memories {
            return memory;
        }
        // Rows sum to 1 and are positive, so that the normaliser stays positive.
        let weight = p.get(&self.name("memory_mix.weight")).softmax(1);
        Memory { kv: mix_heads(weight, memory.kv), norm: mix_heads(weight, memory.norm) }
    }

    /// Attention of one segment `x` `[b, n, D]` with the memory of the past. With `write`, also the memory after the
    /// segment. `segment` numbers the segments of a run, for their random numbers.
    #[track_caller]
    pub fn forward<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        past: Option<Memory<'g>>,
        write: bool,
        mode: Mode,
        segment: u32,
    ) -> (Var<'g>, Option<Memory<'g>>) {
        self.forward_from(p, x, past.map(|past| (past, None)), write, mode, segment)
    }

    /// [`forward`](Self::forward) with a mark of the texts that anything was written for yet (u32 0/1 `[b]`): the output of the
    /// others is the local one.
    #[track_caller]
    pub fn forward_from<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        past: Option<(Memory<'g>, Option<Var<'g>>)>,
        write: bool,
        mode: Mode,
        segment: u32,
    ) -> (Var<'g>, Option<Memory<'g>>) {
        let heads = self.project(p, x);
        let positions = positions(x.graph(), x.dim(1));
        let turned = self.turn(heads.q, heads.k, positions, positions);
        let mut out = self.local(turned.q, turned.k, heads.v, mode, self.site + (segment << 16));
        if let Some((past, written)) = past {
            let mixed = self.memory.retrieve_and_combine(p, out, turned.memory_q, past);
            out = written.map_or(mixed, |written| written.reshape([x.dim(0), 1, 1, 1]).select(mixed, out));
        }
        let memory = write.then(|| {
            let (keys, values) = self.written(p, turned.memory_k, heads.v);
            self.memory.update(keys, values, heads.beta, past.map(|(past, _)| past))
        });
        (self.out(p, out), memory)
    }

    /// Attention of all segments at once, `x` `[b s, n, D]` with the segments of an entry beside each other, without the
    /// delta rule: what each segment reads is a prefix sum of what the segments before wrote. Memories are cut from the
    /// graph after every `detach_every` segments.
    #[track_caller]
    pub fn forward_segments<'g>(
        &self,
        p: &ParamVars<'g>,
        x: Var<'g>,
        segments: usize,
        detach_every: usize,
        mode: Mode,
    ) -> Var<'g> {
        let g = x.graph();
        let heads = self.project(p, x);
        let positions = positions(g, x.dim(1));
        let turned = self.turn(heads.q, heads.k, positions, positions);
        let out = self.local(turned.q, turned.k, heads.v, mode, self.site);
        if segments < 2 {
            return self.out(p, out);
        }
        let wrote = self.memory.update(turned.memory_k, heads.v, heads.beta, None);
        let past =
            Memory { kv: earlier(wrote.kv, segments, detach_every), norm: earlier(wrote.norm, segments, detach_every) };
        let found = past.retrieve(features(turned.memory_q));
        // The first segment has no past: its output stays as it is.
        let (near, far) = self.memory.gates(p);
        let b = x.dim(0) / segments;
        let first = (0..b * segments).map(|i| u32::from(i % segments == 0)).collect();
        let Ok(first) = Tensor::u32([b * segments, 1, 1, 1], first) else { return out };
        let first = g.constant(first);
        let out = out * first.select(1.0, near) + found * first.select(0.0, far);
        self.out(p, out)
    }
}

/// Positions `0..n`.
pub(super) fn positions(g: &Graph, n: usize) -> Var<'_> {
    g.iota([n], 0)
}

/// Mixes the heads (axis 1) of `x` by a matrix `[h, h]`: head i of the result is `sum_j w_ij x_j`.
fn mix_heads<'g>(weight: Var<'g>, x: Var<'g>) -> Var<'g> {
    let shape = x.shape();
    let rest = shape.iter().skip(2).product();
    weight.matmul(x.reshape([x.dim(0), x.dim(1), rest])).reshape(shape)
}

/// Sums over the segments before each, `x` `[b s, ..]`; gradients do not cross multiples of `detach_every`.
fn earlier<'g>(x: Var<'g>, segments: usize, detach_every: usize) -> Var<'g> {
    let shape = x.shape();
    let b = x.dim(0) / segments;
    let width: usize = shape.iter().skip(1).product();
    let every = detach_every.clamp(1, segments);
    let groups = segments.div_ceil(every);
    let x = x.reshape([b, segments, width]).pad(1, 0, groups * every - segments).reshape([b, groups, every, width]);
    let within = x.cumsum_exclusive(2);
    let before = x.sum(2).cumsum_exclusive(1).stop_gradient();
    (within + before).reshape([b, groups * every, width]).slice(1, 0, segments).reshape(shape)
}
