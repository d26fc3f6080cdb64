//! The transformer: embedding, layers of attention and feed-forward, logits.

use super::attention::CausalAttention;
use super::memory::Memory;
use super::{EnhancedRecurrence, InfiniConfig};
use crate::error::Result;
use crate::graph::{Mode, Var};
use crate::nn::{Init, ParamVars, Params};

/// A transformer with Infini-attention. It holds no values: parameters live in [`Params`] and a store, under the
/// package's names.
#[derive(Clone, Debug)]
pub struct InfiniTransformer {
    config: InfiniConfig,
    pub(super) layers: Vec<CausalAttention>,
}

impl InfiniTransformer {
    /// A model.
    ///
    /// # Errors
    /// As [`InfiniConfig::check`].
    pub fn new(config: InfiniConfig) -> Result<Self> {
        config.check()?;
        let layers =
            (0..config.depth as u32).map(|i| CausalAttention::new(format!("layers.{i}.0."), &config, 2 * i)).collect();
        Ok(InfiniTransformer { config, layers })
    }

    /// The options.
    pub fn config(&self) -> &InfiniConfig {
        &self.config
    }

    /// Fresh parameters: embedding N(0, 1), linear maps uniform within 1/sqrt(inputs), gains 1, head gates
    /// [`InfiniConfig::head_gate_init_value`].
    pub fn init(&self, seed: u64) -> Params {
        let c = &self.config;
        let (dim, inner) = (c.dim, c.ff_inner());
        let bound = |fan_in: usize| Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() };
        let mut params = Params::new(seed);
        params.add("token_emb.weight", [c.num_tokens, dim], Init::Normal { std: 1.0 });
        for (i, layer) in self.layers.iter().enumerate() {
            layer.declare(&mut params);
            let ff = |name: &str| format!("layers.{i}.1.{name}");
            params.add(ff("norm.gamma"), [dim], Init::Ones);
            params.add(ff("proj_in.weight"), [2 * inner, dim], bound(dim));
            params.add(ff("proj_in.bias"), [2 * inner], bound(dim));
            params.add(ff("proj_out.weight"), [dim, inner], bound(inner));
            params.add(ff("proj_out.bias"), [dim], bound(inner));
        }
        params.add("norm.gamma", [dim], Init::Ones);
        params.add("to_logits.weight", [c.num_tokens, dim], bound(dim));
        params.add("to_logits.bias", [c.num_tokens], bound(dim));
        params
    }

    /// Embedding of ids (u32, any shape `[..]`): `[.., D]`; ids outside the vocabulary, such as padding, become zeros.
    #[track_caller]
    pub fn embed<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        p.get("token_emb.weight").gather(ids)
    }

    /// Logits `[.., num_tokens]` of features `[.., D]`.
    #[track_caller]
    pub fn logits<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        let x = x.rms_norm(p.get("norm.gamma"));
        x.matmul(p.get("to_logits.weight").transpose(0, 1)) + p.get("to_logits.bias")
    }

    /// Feed-forward of layer `i` with a gated activation (GEGLU, Shazeer 2020, arXiv 2002.05202) and its residual.
    #[track_caller]
    pub(super) fn feed_forward<'g>(
        &self,
        p: &ParamVars<'g>,
        i: usize,
        x: Var<'g>,
        mode: Mode,
        segment: u32,
    ) -> Var<'g> {
        let ff = |name: &str| p.get(&format!("layers.{i}.1.{name}"));
        let inner = self.config.ff_inner();
        let hidden = x.rms_norm(ff("norm.gamma")).matmul(ff("proj_in.weight").transpose(0, 1)) + ff("proj_in.bias");
        let axis = hidden.rank().saturating_sub(1);
        let gated = hidden.slice(axis, inner, inner).gelu() * hidden.slice(axis, 0, inner);
        let gated = gated.dropout(self.config.ff_dropout, 2 * i as u32 + 1 + (segment << 16), mode);
        x + gated.matmul(ff("proj_out.weight").transpose(0, 1)) + ff("proj_out.bias")
    }

    /// Logits `[b, n, num_tokens]` of one segment of ids `[b, n]`, with the memories of the past (one a layer, or none), and
    /// with `write` the memories after the segment. `segment` numbers the segments of a run.
    #[track_caller]
    pub fn forward<'g>(
        &self,
        p: &ParamVars<'g>,
        ids: Var<'g>,
        past: Option<&[Memory<'g>]>,
        write: bool,
        mode: Mode,
        segment: u32,
    ) -> (Var<'g>, Option<Vec<Memory<'g>>>) {
        let (logits, memories) = self.forward_written(p, ids, past, write, mode, segment);
        (logits, memories.map(|m| self.pass_down(p, m)))
    }

    /// [`forward`](Self::forward) with the memories as the layers wrote them, not yet passed down.
    #[track_caller]
    pub(super) fn forward_written<'g>(
        &self,
        p: &ParamVars<'g>,
        ids: Var<'g>,
        past: Option<&[Memory<'g>]>,
        write: bool,
        mode: Mode,
        segment: u32,
    ) -> (Var<'g>, Option<Vec<Memory<'g>>>) {
        let g = ids.graph();
        let mut x = self.embed(p, ids);
        let mut memories = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let memory = past.and_then(|m| m.get(i).copied());
            let step = || {
                let (y, memory) = layer.forward(p, x, memory, write, mode, segment);
                (self.feed_forward(p, i, x + y, mode, segment), memory)
            };
            let (y, memory) = if self.config.recompute { g.recompute(step) } else { step() };
            x = y;
            memories.extend(memory);
        }
        (self.logits(p, x), write.then_some(memories))
    }

    /// Memories as the layers read them in the next segment.
    #[track_caller]
    pub(super) fn pass_down<'g>(&self, p: &ParamVars<'g>, mut memories: Vec<Memory<'g>>) -> Vec<Memory<'g>> {
        if self.config.enhanced_recurrence == EnhancedRecurrence::Off {
            return memories;
        }
        for (layer, memory) in self.layers.iter().zip(&mut memories) {
            *memory = layer.passed_on(p, *memory);
        }
        memories.rotate_left(1);
        memories
    }
}
