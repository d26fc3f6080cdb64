//! Graphs of a training step: loss, gradients in flat buffers, clipping, optimizer, counts.

use super::optimizer::{Group, Optimizer};
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::nn::{ParamVars, Params, Shard};
use crate::ops::optim::{Accumulate, Controls, Pack, Tally};
use crate::types::TensorType;

/// Input: learning rate of this step.
pub(super) const LR: &str = "train/lr";
/// Input: whether this micro-batch is the first of its step.
pub(super) const FIRST: &str = "train/first";
/// State: steps done, steps skipped.
pub(super) const PROGRESS: &str = "optim/progress";
/// State: loss averaged over micro-batches.
const LOSS: &str = "accumulated/loss";

/// What a step does besides the loss.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub optimizer: Optimizer,
    pub groups: Vec<(String, Group)>,
    /// 0: no clipping.
    pub max_norm: f64,
    /// Micro-batches a step.
    pub micro: u32,
}

/// Name of what the optimizer keeps for a shard.
pub(super) fn slot_name(slot: &str, shard: &Shard) -> String {
    format!("optim/{slot}/{}", shard.state)
}

/// Name of a shard's gradient total.
fn total_name(shard: &Shard) -> String {
    format!("accumulated/{}", shard.state)
}

/// Shards that are trained.
pub(super) fn trained(params: &Params) -> Vec<Shard> {
    params.shards().into_iter().filter(|s| s.group.is_some()).collect()
}

impl Settings {
    pub fn check(&self, params: &Params) -> Result<()> {
        self.optimizer.check()?;
        if !(0.0..=f64::from(f32::MAX)).contains(&self.max_norm) {
            return Err(Error::argument(
                "clip",
                format!("the norm must be positive and finite, got {}", self.max_norm),
            ));
        }
        if self.micro == 0 {
            return Err(Error::argument("accumulate", "a step has at least one micro-batch"));
        }
        for (name, group) in &self.groups {
            group.check(name)?;
            if !params.iter().any(|p| p.is_trainable() && p.group_name() == name) {
                let message = "no trainable parameter is in it; check the name".to_owned();
                return Err(Error::Name { kind: "group", name: name.clone(), message });
            }
        }
        Ok(())
    }

    fn group(&self, shard: &Shard) -> Group {
        let known = self.groups.iter().rev().find(|(name, _)| shard.group.as_ref() == Some(name));
        known.map(|(_, group)| *group).unwrap_or_default()
    }

    /// States the trainer keeps besides the parameters.
    pub fn states(&self, params: &Params) -> Vec<(String, TensorType)> {
        let mut states = vec![(PROGRESS.to_owned(), TensorType::u32([2]))];
        for shard in trained(params) {
            for slot in self.optimizer.slots() {
                states.push((slot_name(slot, &shard), shard.ty()));
            }
            if self.micro > 1 {
                states.push((total_name(&shard), shard.ty()));
            }
        }
        if self.micro > 1 {
            states.push((LOSS.to_owned(), TensorType::f32([1])));
        }
        states
    }

    /// Loss, gradients and optimizer in one graph; returns the report.
    pub fn whole<'g>(
        &self,
        graph: &'g Graph,
        params: &Params,
        loss: impl FnOnce(&'g Graph, &ParamVars<'g>) -> Var<'g>,
    ) -> Var<'g> {
        let (loss, grads) = gradients(graph, params, loss);
        self.optimize(graph, params, loss, &grads)
    }

    /// Adds loss and gradients of one micro-batch to their totals.
    pub fn accumulate<'g>(
        &self,
        graph: &'g Graph,
        params: &Params,
        loss: impl FnOnce(&'g Graph, &ParamVars<'g>) -> Var<'g>,
    ) {
        let (loss, grads) = gradients(graph, params, loss);
        let first = graph.input(FIRST, TensorType::u32([]));
        let scale = 1.0 / f64::from(self.micro);
        let add = |name: &str, value: Var<'g>| {
            let total = graph.state(name, value.ty());
            graph.assign(total, Accumulate { scale }.add(total, value, first));
        };
        for (shard, grad) in trained(params).iter().zip(grads) {
            add(&total_name(shard), grad);
        }
        add(LOSS, loss.reshape([1]));
        // Only for what the loss itself assigns: the totals carry a bad value on, and the step that uses them is skipped.
        graph.gate(loss.is_finite());
    }

    /// The optimizer on accumulated totals; returns the report.
    pub fn apply<'g>(&self, graph: &'g Graph, params: &Params) -> Var<'g> {
        let grads: Vec<Var<'g>> = trained(params).iter().map(|s| graph.state(&total_name(s), s.ty())).collect();
        let loss = graph.state(LOSS, TensorType::f32([1])).reshape([]);
        self.optimize(graph, params, loss, &grads)
    }

    fn optimize<'g>(&self, graph: &'g Graph, params: &Params, loss: Var<'g>, grads: &[Var<'g>]) -> Var<'g> {
        let norm_sq = grads.iter().map(|g| g.square_sum()).reduce(|a, b| a + b).unwrap_or(graph.full([], 0.0));
        let ok = loss.is_finite().and(norm_sq.is_finite());
        graph.gate(ok);
        let controls = Controls {
            lr: graph.input(LR, TensorType::f32([])),
            norm_sq,
            ok,
            progress: graph.state(PROGRESS, TensorType::u32([2])),
        };
        for (shard, grad) in trained(params).iter().zip(grads) {
            let mut states = vec![graph.state(&shard.state, shard.ty())];
            let slots = self.optimizer.slots().iter();
            states.extend(slots.map(|slot| graph.state(&slot_name(slot, shard), shard.ty())));
            let group = self.group(shard);
            let new = self.optimizer.step(states[0], &states[1..], *grad, &controls, &group, self.max_norm);
            for (state, value) in states.into_iter().zip(new) {
                graph.assign(state, value);
            }
        }
        // Counted last: until here the optimizers read how many steps came before.
        let counted = Tally::count(controls.progress, loss, norm_sq, ok);
        let &[progress, report] = &counted[..] else {
            return loss;
        };
        graph.assign(controls.progress, progress);
        report
    }
}

/// The loss as a scalar, and its gradients in flat buffers like the trained shards. A parameter that the loss does not
/// depend on has gradient 0.
fn gradients<'g>(
    graph: &'g Graph,
    params: &Params,
    loss: impl FnOnce(&'g Graph, &ParamVars<'g>) -> Var<'g>,
) -> (Var<'g>, Vec<Var<'g>>) {
    let vars = params.vars(graph);
    let loss = loss(graph, &vars);
    if graph.borrow().gate.is_some() {
        graph.fail(Error::argument("gate", "the trainer sets the gate itself; use a mask in the loss instead"));
    }
    let shards = trained(params);
    let segments: Vec<_> = shards.iter().flat_map(|s| &s.segments).collect();
    let wrt: Vec<Var<'g>> = segments.iter().filter_map(|s| vars.nth(s.param)).collect();
    let mut grads = graph.grad(loss, &wrt).into_iter();
    let flat = shards.iter().map(|shard| {
        let mut inputs = Vec::new();
        let mut places = Vec::new();
        for (segment, grad) in shard.segments.iter().zip(grads.by_ref()) {
            if let Some(grad) = grad.dense() {
                inputs.push(grad);
                places.push(segment.offset);
            }
        }
        let len = shard.len;
        Pack { places, len }.pack(graph, &inputs)
    });
    let flat = flat.collect();
    (loss.reshape([]), flat)
}
