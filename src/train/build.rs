//! Graphs of a training step: loss, gradients in flat buffers, clipping, optimizer, counts.

use super::mean::{Parts, counted};
use super::optimizer::{Group, Optimizer};
use super::ranks::shared;
use super::rows::{RowUpdates, Table, Trained, hits};
use crate::error::{Error, Result};
use crate::graph::{Gradient, Graph, Rows, Var};
use crate::nn::{ParamVars, Params, Shard};
use crate::ops::optim::{Accumulate, Controls, Pack, Tally};
use crate::types::TensorType;

/// Input: learning rate of this step.
pub(super) const LR: &str = "train/lr";
/// Input: whether this micro-batch is the first of its step.
pub(super) const FIRST: &str = "train/first";
/// Input: number of this micro-batch within its step.
pub(super) const TURN: &str = "train/turn";
/// Input: steps that may have been skipped before this one, for [`NotFinite::Stop`].
pub(super) const ALLOWED: &str = "train/allowed";
/// State: steps done, steps skipped.
pub(super) const PROGRESS: &str = "optim/progress";
/// Slot: touches of each row.
pub(super) const COUNT: &str = "count";
/// State: loss of a step's micro-batches together.
pub(super) const LOSS: &str = "accumulated/loss";
/// State: what was counted in a step's micro-batches together.
pub(super) const COUNTED: &str = "accumulated/count";

/// What a step does besides the loss.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub optimizer: Optimizer,
    pub groups: Vec<(String, Group)>,
    /// 0: no clipping.
    pub max_norm: f64,
    /// Micro-batches a step.
    pub micro: u32,
    /// Ranks that make it together, each with so many.
    pub ranks: u32,
    /// Whether the loss is a sum and a count.
    pub counted: bool,
    pub not_finite: NotFinite,
}

/// What follows a step whose loss or gradients are infinite or NaN. In any case that step changes nothing: neither
/// parameters, nor what the optimizer keeps, nor what the loss carries (which with micro-batches moves with each of them
/// whose own loss is finite).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NotFinite {
    /// The next step is made as if nothing had been: one bad batch costs that batch.
    #[default]
    Skip,
    /// No later step changes anything either, whenever the loss is read: the device itself holds still, so that everything
    /// is as it was before the bad step. Once [`Trainer::loss`](super::Trainer::loss) or
    /// [`report`](super::Trainer::report) has said so, [`step`](super::Trainer::step) is the same
    /// [`Error::NotFinite`], which names the step. To go on, restore a snapshot or load a checkpoint, one of that moment too.
    Stop,
}

/// Name of what the optimizer keeps for a shard.
pub(super) fn slot_name(slot: &str, shard: &Shard) -> String {
    format!("optim/{slot}/{}", shard.state)
}

/// Kinds of states for the gradient of a step with several micro-batches: a total, or the hits of all side by side.
pub(super) const TOTAL: &str = "accumulated";
pub(super) const INDICES: &str = "accumulated/indices";
pub(super) const VALUES: &str = "accumulated/values";
pub(super) const WEIGHTS: &str = "accumulated/weights";

/// Name of the state for the hits of all ranks, where one has those of this rank.
pub(super) fn gathered(state: &str) -> String {
    state.replacen(TOTAL, "gathered", 1)
}

/// The gradient of a flat buffer.
enum Grad<'g> {
    /// Like the buffer.
    Dense(Var<'g>),
    /// Rows of the table it holds; `None` if none is hit.
    Rows(Option<Rows<'g>>),
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
        if self.ranks == 0 {
            return Err(Error::argument("ranks", "there is at least one"));
        }
        if self.micro == 0 {
            return Err(Error::argument("accumulate", "a step has at least one micro-batch"));
        }
        if let Some(p) = params.iter().find(|p| p.quantization().is_some()) {
            let message =
                "it is quantised, for inference; train the table of floats and round it afterwards".to_owned();
            return Err(Error::Name { kind: "parameter", name: p.name().to_owned(), message });
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

    /// Batches that make a step, on all ranks.
    fn batches(&self) -> usize {
        self.micro as usize * self.ranks as usize
    }

    /// Whether loss, gradients and optimizer are one graph.
    pub fn at_once(&self) -> bool {
        self.batches() == 1
    }

    fn group(&self, name: &str) -> Group {
        let known = self.groups.iter().rev().find(|(known, _)| known == name);
        known.map(|(_, group)| *group).unwrap_or_default()
    }

    /// Gives every parameter a buffer of its own whose group asks for updates by rows.
    pub fn separate(&self, params: &mut Params) {
        for (name, _) in &self.groups {
            if self.group(name).rows != RowUpdates::Dense {
                params.separate(name);
            }
        }
    }

    /// States the trainer keeps besides the parameters.
    pub fn states(&self, trained: &[Trained]) -> Vec<(String, TensorType)> {
        let mut states = vec![(PROGRESS.to_owned(), TensorType::u32([2]))];
        let micro = self.micro as usize;
        for t in trained {
            for shard in &t.shards {
                let slots = self.optimizer.slots().iter();
                states.extend(slots.map(|slot| (slot_name(slot, shard), shard.ty())));
            }
            if let Some(table) = t.counted(&self.optimizer) {
                let counts = table.pieces.iter().map(|rows| TensorType::u32([rows.len()]));
                states.extend(t.shards.iter().zip(counts).map(|(shard, ty)| (slot_name(COUNT, shard), ty)));
            }
            match &t.table {
                _ if self.at_once() => {}
                None => states.extend(t.shards.iter().map(|shard| (t.state(TOTAL), shard.ty()))),
                Some(table) => {
                    for kind in table.kinds() {
                        let ty = match *kind {
                            INDICES => TensorType::u32([micro, table.hits]),
                            VALUES => TensorType::f32([micro, table.values() * table.width]),
                            _ => TensorType::f32([micro, table.hits]),
                        };
                        if self.ranks > 1 {
                            states.push((gathered(&t.state(kind)), shared(&ty, self.ranks as usize)));
                        }
                        states.push((t.state(kind), ty));
                    }
                }
            }
        }
        if !self.at_once() {
            states.push((LOSS.to_owned(), TensorType::f32([1])));
        }
        if !self.at_once() && self.counted {
            states.push((COUNTED.to_owned(), TensorType::f32([1])));
        }
        states
    }

    /// Loss, gradients and optimizer in one graph; returns the report.
    pub fn whole<'g>(
        &self,
        graph: &'g Graph,
        params: &Params,
        loss: impl FnOnce(&'g Graph, &ParamVars<'g>) -> Parts<'g>,
    ) -> (Var<'g>, Vec<Trained>) {
        let mean = |graph: &'g Graph, params: &ParamVars<'g>| match loss(graph, params) {
            (sum, Some(count)) => (sum.reshape([]) / counted(count), None),
            plain => plain,
        };
        let (loss, _, grads) = self.gradients(graph, params, mean);
        let (trained, grads): (Vec<Trained>, Vec<Grad<'g>>) = grads.into_iter().unzip();
        (self.optimize(graph, loss, &trained, &grads), trained)
    }

    /// Adds loss and gradients of one micro-batch to their totals, and puts hits beside those of the others.
    pub fn accumulate<'g>(
        &self,
        graph: &'g Graph,
        params: &Params,
        loss: impl FnOnce(&'g Graph, &ParamVars<'g>) -> Parts<'g>,
    ) -> Vec<Trained> {
        let (loss, count, grads) = self.gradients(graph, params, loss);
        let [first, turn] = [FIRST, TURN].map(|name| graph.input(name, TensorType::u32([])));
        // Without counts all batches weigh the same; with them the totals are divided in the end.
        let scale = if count.is_some() { 1.0 } else { 1.0 / self.batches() as f64 };
        let add = |name: &str, value: Var<'g>| {
            let total = graph.state(name, value.ty());
            graph.assign(total, Accumulate { scale }.add(total, value, first));
        };
        let ok = self.going_on(graph, loss.is_finite());
        let put = |name: &str, value: Var<'g>| {
            let n = value.shape().numel();
            let all = graph.state(name, TensorType { dtype: value.dtype(), shape: [self.micro as usize, n].into() });
            graph.assign(all, all.write_rows_if(ok, value.reshape([1, n]), turn));
        };
        add(LOSS, loss.reshape([1]));
        if let Some(count) = count {
            add(COUNTED, count);
        }
        for (t, grad) in &grads {
            match grad {
                Grad::Dense(grad) => add(&t.state(TOTAL), *grad),
                Grad::Rows(None) => {}
                Grad::Rows(Some(rows)) => {
                    put(&t.state(INDICES), rows.indices);
                    put(&t.state(VALUES), rows.values * scale);
                    if let Some(factors) = rows.factors {
                        put(&t.state(WEIGHTS), factors.weights);
                    }
                }
            }
        }
        // For what the loss itself assigns, and for hits: a loss that is not finite spoils its total, and the step that uses
        // it is skipped. Totals of gradients carry a bad value on.
        graph.gate(ok);
        grads.into_iter().map(|(t, _)| t).collect()
    }

    /// The optimizer on what was accumulated; returns the report.
    pub fn apply<'g>(&self, graph: &'g Graph, trained: &[Trained]) -> Var<'g> {
        let one = |name: &str| graph.state(name, TensorType::f32([1]));
        let count = self.counted.then(|| counted(one(COUNTED)));
        let mean = |total: Var<'g>| count.map_or(total, |count| total / count);
        let grad = |t: &Trained| match &t.table {
            None => {
                let ty = t.shards.first().map_or(TensorType::f32([0]), Shard::ty);
                Grad::Dense(mean(graph.state(&t.state(TOTAL), ty)))
            }
            Some(table) if table.hits == 0 => Grad::Rows(None),
            Some(table) => {
                let rows = t.hits(graph, table, self.batches(), self.ranks > 1);
                Grad::Rows(Some(Rows { values: mean(rows.values), ..rows }))
            }
        };
        let grads: Vec<Grad<'g>> = trained.iter().map(grad).collect();
        self.optimize(graph, mean(one(LOSS).reshape([])), trained, &grads)
    }

    /// `ok`, and that the training has not stopped.
    fn going_on<'g>(&self, graph: &'g Graph, ok: Var<'g>) -> Var<'g> {
        if self.not_finite == NotFinite::Skip {
            return ok;
        }
        let skipped = graph.state(PROGRESS, TensorType::u32([2])).slice(0, 1, 1).reshape([]);
        ok.and(skipped.le(graph.input(ALLOWED, TensorType::u32([]))))
    }

    fn optimize<'g>(&self, graph: &'g Graph, loss: Var<'g>, trained: &[Trained], grads: &[Grad<'g>]) -> Var<'g> {
        let squares = grads.iter().filter_map(|grad| match grad {
            Grad::Dense(grad) => Some(grad.square_sum()),
            // The optimizer sorts the same hits: in the plan that is done once.
            Grad::Rows(rows) => rows.as_ref().map(Rows::square_sum),
        });
        let norm_sq = squares.reduce(|a, b| a + b).unwrap_or(graph.full([], 0.0));
        let ok = self.going_on(graph, loss.is_finite().and(norm_sq.is_finite()));
        graph.gate(ok);
        let controls = Controls {
            lr: graph.input(LR, TensorType::f32([])),
            norm_sq,
            ok,
            progress: graph.state(PROGRESS, TensorType::u32([2])),
        };
        for (t, grad) in trained.iter().zip(grads) {
            for (piece, shard) in t.shards.iter().enumerate() {
                self.update(graph, t, piece, shard, grad, &controls);
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

    /// The optimizer's step of one flat buffer: the whole of what is trained there, or a piece of a table.
    fn update<'g>(
        &self,
        graph: &'g Graph,
        t: &Trained,
        piece: usize,
        shard: &Shard,
        grad: &Grad<'g>,
        controls: &Controls<'g>,
    ) {
        let optimizer = &self.optimizer;
        let mut states = vec![graph.state(&shard.state, shard.ty())];
        states.extend(optimizer.slots().iter().map(|slot| graph.state(&slot_name(slot, shard), shard.ty())));
        let common = optimizer.common(&t.group, self.max_norm);
        let new = match (grad, t.table.as_ref().and_then(|table| table.pieces.get(piece))) {
            (Grad::Dense(grad), _) => optimizer.step(states[0], &states[1..], *grad, controls, common),
            (Grad::Rows(Some(rows)), Some(held)) => {
                let ty = TensorType::u32([held.len()]);
                let counts = t.counted(optimizer).map(|_| graph.state(&slot_name(COUNT, shard), ty));
                let hits = (rows, held.clone());
                let new = optimizer.step_rows(states[0], &states[1..], counts, hits, controls, common);
                states.extend(counts);
                new
            }
            (Grad::Rows(_), _) => return,
        };
        for (state, value) in states.into_iter().zip(new) {
            graph.assign(state, value);
        }
    }

    /// The loss as a scalar, and its gradients in flat buffers like the trained shards, or as rows. A parameter that the loss
    /// does not depend on has gradient 0, or no hits.
    fn gradients<'g>(
        &self,
        graph: &'g Graph,
        params: &Params,
        loss: impl FnOnce(&'g Graph, &ParamVars<'g>) -> Parts<'g>,
    ) -> (Var<'g>, Option<Var<'g>>, Vec<(Trained, Grad<'g>)>) {
        let vars = params.vars(graph);
        let (loss, count) = loss(graph, &vars);
        if loss.ty() != TensorType::f32([]) {
            let message = format!("the loss must be one f32, not {}; reduce it with mean_all or sum_all", loss.ty());
            let (op, location) = ("trainer".into(), loss.graph().place(loss));
            graph.fail(Error::Shape { op, message, shapes: vec![loss.shape()], location });
        }
        if graph.borrow().gate.is_some() {
            graph.fail(Error::argument("gate", "the trainer sets the gate itself; use a mask in the loss instead"));
        }
        let shards = params.shards().unwrap_or_default();
        let shards: Vec<Shard> = shards.into_iter().filter(|s| s.group.is_some()).collect();
        let segments = shards.iter().flat_map(|s| &s.segments);
        let wrt: Vec<Var<'g>> = segments.filter_map(|s| vars.piece(s.param, s.piece)).collect();
        let mut grads = graph.grad(loss, &wrt).into_iter();
        let mut all = Vec::new();
        // Pieces of one parameter lie in buffers that follow each other.
        for pieces in shards.chunk_by(|a, b| a.param() == b.param()) {
            let count = pieces.iter().map(|shard| shard.segments.len()).sum();
            let grads: Vec<Gradient<'g>> = grads.by_ref().take(count).collect();
            match self.rows_gradient(params, pieces, &grads) {
                Some(rows) => all.push(rows),
                None => self.dense_gradients(graph, pieces, &grads, &mut all),
            }
        }
        (loss.reshape([]), count.map(|count| count.reshape([1])), all)
    }

    /// The gradient of a table, whole or in pieces, if it is updated by rows.
    fn rows_gradient<'g>(
        &self,
        params: &Params,
        pieces: &[Shard],
        grads: &[Gradient<'g>],
    ) -> Option<(Trained, Grad<'g>)> {
        let group = self.group_of(pieces.first()?);
        let param = params.nth(pieces.first()?.param()?)?;
        let &[rows, width] = &param.shape()[..] else { return None };
        if group.rows == RowUpdates::Dense || rows == 0 || width == 0 {
            return None;
        }
        let segments = pieces.iter().flat_map(|shard| &shard.segments);
        let held: Vec<_> = segments.map(|s| s.start / width..(s.start + s.len) / width).collect();
        let hits = hits(&held, grads)?;
        let count = hits.map_or(0, |h| h.indices.shape().numel());
        let per = hits.and_then(|h| h.factors).map(|f| f.per);
        let name = param.name().to_owned();
        let table = Table { name, rows, width, pieces: held, hits: count, per, rule: group.rows };
        let trained = Trained { shards: pieces.to_vec(), group, table: Some(table) };
        Some((trained, Grad::Rows(hits.filter(|_| count > 0))))
    }

    /// Gradients packed like their buffers.
    fn dense_gradients<'g>(
        &self,
        graph: &'g Graph,
        shards: &[Shard],
        grads: &[Gradient<'g>],
        all: &mut Vec<(Trained, Grad<'g>)>,
    ) {
        let mut grads = grads.iter();
        for shard in shards {
            let mut inputs = Vec::new();
            let mut places = Vec::new();
            for (segment, grad) in shard.segments.iter().zip(grads.by_ref()) {
                if let Some(grad) = grad.dense() {
                    inputs.push(grad);
                    places.push(segment.offset);
                }
            }
            let flat = Pack { places, len: shard.len }.pack(graph, &inputs);
            let group = self.group_of(shard);
            all.push((Trained { shards: vec![shard.clone()], group, table: None }, Grad::Dense(flat)));
        }
    }

    fn group_of(&self, shard: &Shard) -> Group {
        shard.group.as_deref().map(|name| self.group(name)).unwrap_or_default()
    }
}
