//! The bank of recurrent states of one layer: read by tokens, written once a block.

use super::core::{Core, CoreConfig, for_each, merge};
use super::gate::{GateConfiguration, GateKind, Gates};
use super::memory::Memory;
use super::norm::Norm;
use crate::graph::Var;
use crate::models::parts::{below, expect};
use crate::nn::{Init, Linear, ParamVars, Params};
use crate::ops::attention::Attention;
use crate::types::TensorType;

/// Options of a [`StateContainer`].
#[derive(Clone, Debug)]
pub struct StateContainerConfig {
    /// Features of a token and of a state vector.
    pub dim: usize,
    /// State vectors.
    pub num_state_vectors: usize,
    /// Features of a head.
    pub dim_head: usize,
    /// Query heads.
    pub heads: usize,
    /// Normalise queries and keys.
    pub qk_rmsnorm: bool,
    /// Scale of normalised scores; `None`: one over the square root of `dim_head`, as the package has it.
    pub qk_rmsnorm_scale: Option<f64>,
    /// What a gate computes.
    pub gate: GateKind,
    /// Where gates stand.
    pub gates: GateConfiguration,
    /// Features inside the feed-forward of the gates, where there is one.
    pub ff_inner: usize,
    /// Standard deviation of the first states and of the fixed gate's shares.
    pub init_std: f32,
}

/// States `[b, N, D]` of each text.
#[derive(Clone, Copy, Debug)]
pub struct States<'g> {
    /// `[b, N, D]`
    pub vectors: Var<'g>,
    /// Texts that have states (u32 0/1, `[b]`); the others have the learned first ones. Absent: all have.
    pub written: Option<Var<'g>>,
}

/// Keys and values of states, as tokens read them: `[b, N, d]` each, or `[1, N, d]` for all texts.
#[derive(Clone, Copy, Debug)]
pub struct Readable<'g> {
    /// Keys `[b, N, d]`, normalised if the layer does that.
    pub keys: Var<'g>,
    /// Values `[b, N, d]`.
    pub values: Var<'g>,
}

/// States of the last block, ready for one block: for any number of readers, and for the writer. `[1, ..]` where they are the
/// learned first ones.
#[derive(Clone, Copy, Debug)]
pub struct StateView<'g> {
    vectors: Var<'g>,
    /// Normalised, with their identities added.
    normed: Var<'g>,
    keys: Var<'g>,
    values: Var<'g>,
}

/// A bank of states (Hutchins et al. 2022, arXiv 2203.07852). Parameters below its name: `init_state` and `state_pos_ids`
/// `[N, D]`, `state_norm.gamma`, `q_to_state.weight`, `q_from_state.weight` and `state_to_q.weight` `[h d, D]`,
/// `state_to_kv.weight` `[2 d, D]`, `to_state_out.weight` `[D, 2 h d]`; `q_scale` and `k_scale` of `to_state_cross_attn`,
/// `state_self_attn` and `from_state_cross_attn` with norms; those of the gate.
#[derive(Clone, Debug)]
pub struct StateContainer {
    config: StateContainerConfig,
    init_state: String,
    pos_ids: String,
    norm: Norm,
    q_to_state: Linear,
    q_from_state: Linear,
    state_to_q: Linear,
    state_to_kv: Linear,
    to_state_out: Linear,
    read: Core,
    within: Core,
    from_tokens: Core,
    gates: Gates,
}

impl StateContainer {
    /// Adds the parameters below `name` (none: at the top).
    pub fn new(params: &mut Params, name: &str, config: StateContainerConfig) -> Self {
        let c = &config;
        let (dim, d, inner) = (c.dim, c.dim_head, c.heads.saturating_mul(c.dim_head));
        let [init_state, pos_ids] = ["init_state", "state_pos_ids"].map(|part| below(name, part));
        params.add(&init_state, [c.num_state_vectors, dim], Init::Normal { std: c.init_std });
        params.add(&pos_ids, [c.num_state_vectors, dim], Init::Normal { std: 1.0 });
        let norm = Norm::new(params, &below(name, "state_norm"), dim);
        let mut linear = |part: &str, inputs, outputs| Linear::new(params, &below(name, part), inputs, outputs, false);
        let [q_to_state, q_from_state, state_to_q] =
            ["q_to_state", "q_from_state", "state_to_q"].map(|part| linear(part, dim, inner));
        let state_to_kv = linear("state_to_kv", dim, d.saturating_mul(2));
        let to_state_out = linear("to_state_out", inner.saturating_mul(2), dim);
        let core =
            CoreConfig { heads: c.heads, dim_head: d, qk_rmsnorm: c.qk_rmsnorm, qk_rmsnorm_scale: c.qk_rmsnorm_scale };
        let [read, within, from_tokens] = ["to_state_cross_attn", "state_self_attn", "from_state_cross_attn"]
            .map(|part| Core::new(params, &below(name, part), &core));
        let gates = Gates::new(params, name, dim, (c.gate, c.gates), c.ff_inner, c.init_std);
        StateContainer {
            init_state,
            pos_ids,
            norm,
            q_to_state,
            q_from_state,
            state_to_q,
            state_to_kv,
            to_state_out,
            read,
            within,
            from_tokens,
            gates,
            config,
        }
    }

    /// Type of the states of `b` texts.
    pub fn ty(&self, b: usize) -> TensorType {
        TensorType::f32([b, self.config.num_state_vectors, self.config.dim])
    }

    /// The states of the last block, or the learned first ones.
    #[track_caller]
    pub fn view<'g>(&self, p: &ParamVars<'g>, states: Option<&States<'g>>) -> StateView<'g> {
        let first = p.get(&self.init_state).unsqueeze(0);
        let vectors = match states {
            None => first,
            Some(States { vectors, written: None }) => *vectors,
            Some(States { vectors, written: Some(written) }) => {
                written.reshape([vectors.dim(0), 1, 1]).select(*vectors, first)
            }
        };
        if states.is_some() {
            expect(p.graph(), "states", vectors, &self.ty(vectors.dim(0)));
        }
        let normed = self.norm.forward(p, vectors) + p.get(&self.pos_ids);
        let kv = self.state_to_kv.forward(p, normed);
        let d = self.config.dim_head;
        StateView { vectors, normed, keys: kv.slice(2, 0, d), values: kv.slice(2, d, d) }
    }

    /// Keys and values as tokens read them; the same for all tokens of a block.
    #[track_caller]
    pub fn readable<'g>(&self, p: &ParamVars<'g>, view: &StateView<'g>) -> Readable<'g> {
        Readable { keys: self.read.keys(p, view.keys), values: view.values }
    }

    /// What normed tokens `x` `[b, n, D]` find in the states: `[b, n, h d]`.
    #[track_caller]
    pub fn read<'g>(&self, p: &ParamVars<'g>, x: Var<'g>, states: &Readable<'g>) -> Var<'g> {
        let q = self.read.queries(p, self.read.split(self.q_to_state.forward(p, x)));
        merge(self.read.attend(q, states.keys, states.values, &Attention::default()))
    }

    /// The states `[b, N, D]` after a block: they attend to themselves and to the block's keys and values, side by side for
    /// each head, and the gate mixes that in.
    #[track_caller]
    pub fn write<'g>(&self, p: &ParamVars<'g>, block: &Memory<'g>, view: &StateView<'g>) -> Var<'g> {
        let b = block.keys.dim(0);
        let every = Attention::default();
        let q = self.within.queries(p, self.within.split(self.state_to_q.forward(p, view.normed)));
        let within = self.within.attend(q, self.within.keys(p, view.keys), view.values, &every);
        let q = self.from_tokens.queries(p, self.from_tokens.split(self.q_from_state.forward(p, view.normed)));
        let keys = self.from_tokens.keys(p, block.keys);
        let found = self.from_tokens.attend(for_each(q, b), keys, block.values, &every);
        let both = merge(for_each(within, b).concat(&[found], 3));
        self.gates.forward(p, view.vectors, self.to_state_out.forward(p, both))
    }
}
