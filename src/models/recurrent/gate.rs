//! Gates of the recurrent states.

use super::feed_forward::FeedForward;
use crate::graph::Var;
use crate::models::parts::below;
use crate::nn::{Init, Linear, ParamVars, Params};
use serde::{Deserialize, Serialize};

/// How a gate mixes a state with what is written to it (Hutchins et al. 2022, arXiv 2203.07852, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    /// Shares that are learned once and for all: `s' = b z + (1 - b) s` with `b = sigmoid(learned_ema_beta)`,
    /// `z = W u + c`. What the package has.
    #[default]
    Fixed,
    /// Shares that depend on what is written: `s' = sigmoid(F u + 1) s + sigmoid(I u - 1) tanh(W u + c)`, biases included.
    Lstm,
}

/// Where the gates stand (the same paper).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateConfiguration {
    /// One gate on the projected attention, no feed-forward. What the package has.
    #[default]
    Skip,
    /// One gate, after a feed-forward of the projected attention. (The paper drops the projection here; it is kept, so that the
    /// parameters of all configurations have the same names and shapes up to the gates.)
    Single,
    /// A gate in place of both residual connections: of the projected attention, then of a feed-forward of the result.
    Dual,
}

/// One gate. Parameters below `name`: `state_out_to_gate.weight` `[D, D]`, `.bias` `[D]`, and `learned_ema_beta` `[D]` or the
/// same as the first for `state_out_to_input_gate` and `state_out_to_forget_gate`.
#[derive(Clone, Debug)]
struct Gate {
    candidate: Linear,
    shares: Shares,
}

#[derive(Clone, Debug)]
enum Shares {
    Fixed(String),
    Lstm { input: Linear, forget: Linear },
}

impl Gate {
    fn new(params: &mut Params, name: &str, dim: usize, kind: GateKind, std: f32) -> Self {
        let mut linear = |part: &str| Linear::new(params, &below(name, part), dim, dim, true);
        let candidate = linear("state_out_to_gate");
        let shares = match kind {
            GateKind::Lstm => {
                Shares::Lstm { input: linear("state_out_to_input_gate"), forget: linear("state_out_to_forget_gate") }
            }
            GateKind::Fixed => {
                let beta = below(name, "learned_ema_beta");
                params.add(&beta, [dim], Init::Normal { std });
                Shares::Fixed(beta)
            }
        };
        Gate { candidate, shares }
    }

    #[track_caller]
    fn forward<'g>(&self, p: &ParamVars<'g>, state: Var<'g>, update: Var<'g>) -> Var<'g> {
        let z = self.candidate.forward(p, update);
        match &self.shares {
            Shares::Fixed(beta) => {
                let beta = p.get(beta);
                beta.sigmoid() * z + (-beta).sigmoid() * state
            }
            Shares::Lstm { input, forget } => {
                let (input, forget) = (input.forward(p, update) - 1.0, forget.forward(p, update) + 1.0);
                forget.sigmoid() * state + input.sigmoid() * z.tanh()
            }
        }
    }
}

/// The gates of one bank of states, with the feed-forward between them: parameters of a first gate and `state_ff.*` below
/// `name`, and of a second gate below `state_ff_gate`.
#[derive(Clone, Debug)]
pub(super) struct Gates {
    first: Gate,
    single: Option<FeedForward>,
    dual: Option<(FeedForward, Gate)>,
}

impl Gates {
    /// `inner`: features inside the feed-forward; `std`: of the first shares.
    pub fn new(
        params: &mut Params,
        name: &str,
        dim: usize,
        (kind, configuration): (GateKind, GateConfiguration),
        inner: usize,
        std: f32,
    ) -> Self {
        let first = Gate::new(params, name, dim, kind, std);
        let mut feed_forward = || FeedForward::new(params, &below(name, "state_ff"), dim, inner);
        let (mut single, mut dual) = (None, None);
        match configuration {
            GateConfiguration::Skip => {}
            GateConfiguration::Single => single = Some(feed_forward()),
            GateConfiguration::Dual => {
                let feed_forward = feed_forward();
                dual = Some((feed_forward, Gate::new(params, &below(name, "state_ff_gate"), dim, kind, std)));
            }
        }
        Gates { first, single, dual }
    }

    /// The next state `[b, N, D]` from the last one and what attention found, projected.
    #[track_caller]
    pub fn forward<'g>(&self, p: &ParamVars<'g>, state: Var<'g>, found: Var<'g>) -> Var<'g> {
        let update = self.single.as_ref().map_or(found, |feed_forward| feed_forward.forward(p, found));
        let next = self.first.forward(p, state, update);
        match &self.dual {
            Some((feed_forward, gate)) => gate.forward(p, next, feed_forward.forward(p, next)),
            None => next,
        }
    }
}
