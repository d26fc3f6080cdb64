//! Settings of a trainer, and how it is compiled from them.

use super::build::{NotFinite, Settings};
use super::mean::{Mean, Parts};
use super::optimizer::Group;
use super::ranks::Collective;
use super::schedule::Schedule;
use super::trainer::{Design, Trainer};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::Store;
use crate::graph::{Graph, Var};
use crate::nn::{ParamVars, Params};
use crate::plan::{Options, Program};
use crate::types::TensorType;
use std::sync::Arc;

/// Settings of a trainer; [`compile`](Self::compile) makes it.
pub struct TrainerBuilder {
    pub(super) device: Device,
    pub(super) params: Params,
    pub(super) settings: Settings,
    pub(super) schedule: Schedule,
    pub(super) seed: u64,
    pub(super) config: String,
    pub(super) options: Options,
    pub(super) carried: Vec<(String, TensorType)>,
    pub(super) ranks: Option<Arc<dyn Collective>>,
    pub(super) mixed: bool,
}

impl TrainerBuilder {
    /// Scales all gradients together so that their norm is at most `max_norm`, as `torch.nn.utils.clip_grad_norm_`.
    pub fn clip(mut self, max_norm: f64) -> Self {
        self.settings.max_norm = max_norm;
        self
    }

    /// Gives a group of parameters its own learning rate factor, weight decay and way to update tables.
    pub fn group(mut self, name: impl Into<String>, group: Group) -> Self {
        self.settings.groups.push((name.into(), group));
        self
    }

    /// Sets how the learning rate changes.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Averages gradients over `micro` micro-batches a step; each is one call of [`Trainer::step`].
    pub fn accumulate(mut self, micro: u32) -> Self {
        self.settings.micro = micro;
        self
    }

    /// Sets the seed of random numbers in the loss (dropout); by default that of the parameters.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Text that goes into checkpoints: how to build the model again.
    pub fn config(mut self, config: impl Into<String>) -> Self {
        self.config = config.into();
        self
    }

    /// Keeps states of the loss (see [`Graph::state`]) in the trainer's store, zeros at first, and in its checkpoints: what a
    /// model carries from one batch to the next. A step that is skipped leaves them as they are, and so does each micro-batch
    /// whose loss is not finite.
    pub fn carry(mut self, states: impl IntoIterator<Item = (String, TensorType)>) -> Self {
        self.carried.extend(states);
        self
    }

    /// Sets what follows a step whose loss or gradients are not finite: by default it is skipped.
    pub fn on_not_finite(mut self, then: NotFinite) -> Self {
        self.settings.not_finite = then;
        self
    }

    /// Shares every batch out among ranks: this trainer is given part [`Collective::rank`] of it along its first axis, and
    /// all ranks make the same step together. All of them build the same model with the same seed, call the same functions
    /// of the trainer in the same order, and have batches of one size. N ranks with batches of B make the steps of one
    /// trainer with batches of N B, but for rounding:
    ///
    /// * the loss is the mean over all ranks; where they may count differently many tokens, give
    ///   [`compile_mean`](Self::compile_mean) sum and count;
    /// * random numbers are those that one process draws for its part of the batch, where the first axis of what is drawn
    ///   is the batch's ([`Feed::rank`](crate::Feed::rank)), as it is in all models here; the first axis of what the loss
    ///   [carries](Self::carry) is the batch's too;
    /// * what mixes the samples of a batch, as batch normalization does, sees those of its own rank, and its running
    ///   statistics are each rank's own.
    ///
    /// A step waits for all ranks: dense gradients are summed over them, hits of tables updated by rows
    /// ([`RowUpdates`](super::RowUpdates)) are gathered. The report and whether a step is skipped are the same on all ranks.
    /// Rank 0 alone writes the file of [`Trainer::save`], which holds what all ranks carry and can be loaded by any number
    /// of ranks that share the same whole batch; every rank loads it.
    ///
    /// Compiling fails with [`Error::Rank`], on all ranks, if one differs from rank 0: in the types of its inputs, its
    /// device, the settings, the program of the step, or the first values. A rank whose work is over (its handle is dropped,
    /// or over MPI its function has returned) ends the others' next call with [`Error::Rank`]; nothing of an unfinished step
    /// is kept. A process that is killed can say nothing: over MPI `mpirun` ends the whole job then.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn ranks(mut self, ranks: impl Collective + 'static) -> Self {
        self.settings.ranks = u32::try_from(ranks.ranks()).unwrap_or(0);
        self.ranks = (self.settings.ranks > 1).then(|| Arc::new(ranks) as Arc<dyn Collective>);
        self
    }

    /// Lets [ranks](Self::ranks) be on devices of different kinds. Each makes the update by itself, from the same gradients, so
    /// that their parameters drift apart by how the devices round; nothing compares them then, and what is saved is
    /// rank 0's. Without it, compiling refuses such ranks.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn mixed_devices(mut self) -> Self {
        self.mixed = true;
        self
    }

    /// Sets what compiling may do.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Compiles the step. `loss` builds one scalar from the graph and the parameters; it declares the inputs it wants
    /// with [`Graph::input`] and may keep states with [`Graph::state`] and [`Graph::assign`], but sets no gate.
    ///
    /// # Errors
    /// [`Error::Argument`] for a setting out of its range; [`Error::Name`] for a group without trainable parameters, a
    /// quantised parameter, and a state to [carry](Self::carry) whose name is taken; [`Error::Shape`] if the loss is no
    /// scalar; [`Error::Limit`] and [`Error::OutOfMemory`] before plans are made; [`Error::Rank`] if ranks do not train
    /// the same; else as [`Device::compile`](crate::Device::compile).
    pub async fn compile(self, loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Var<'g>) -> Result<Trainer> {
        self.build(|graph, params| (loss(graph, params), None)).await
    }

    /// [`compile`](Self::compile) with a loss that is the mean over what counts: a sum, and how many terms it has. The loss of
    /// a step is the sum of all its micro-batches, on all `ranks`, divided by what all of them count; 0 if that
    /// is nothing. So micro-batches that count more weigh more, as in one large batch.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub async fn compile_mean(
        mut self,
        loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Mean<'g>,
    ) -> Result<Trainer> {
        self.settings.counted = true;
        self.build(|graph, params| {
            let Mean { sum, count } = loss(graph, params);
            (sum, Some(count))
        })
        .await
    }

    async fn build(self, loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Parts<'g>) -> Result<Trainer> {
        let TrainerBuilder { device, mut params, settings, ranks, mixed, .. } = self;
        settings.check(&params)?;
        settings.separate(&mut params);
        params.check_device(&device)?;
        let options = self.options;
        let graph = Graph::new();
        let (report, trained) = if settings.at_once() {
            let (report, trained) = settings.whole(&graph, &params, loss);
            (Some(report), trained)
        } else {
            (None, settings.accumulate(&graph, &params, loss))
        };
        if let Some(error) = graph.error() {
            return Err(error);
        }
        // Memory that lasts comes first: what cannot fit is refused before plans are made.
        let store = Store::new(&device);
        let mut states = params.states()?;
        states.extend(settings.states(&trained));
        let carried = self.carried;
        for (name, ty) in &carried {
            if states.iter().any(|(taken, _)| taken == name) {
                let message =
                    "the trainer has a state of this name; choose another for what the loss carries".to_owned();
                return Err(Error::Name { kind: "state", name: name.clone(), message });
            }
            if ranks.is_some() && ty.shape.is_empty() {
                let message = "ranks share the first axis of what the loss carries; a scalar has none".to_owned();
                return Err(Error::Name { kind: "state", name: name.clone(), message });
            }
            states.push((name.clone(), ty.clone()));
        }
        store.reserve(&states)?;
        let inspection = Arc::new(Program::inspection(&graph, report.as_slice()));
        let build = |graph: &Graph, outputs: &[(&str, Var<'_>)]| Program::build(graph, outputs, options).map(Arc::new);
        let (accumulate, apply) = match report {
            Some(report) => (None, build(&graph, &[("report", report)])?),
            None => {
                let first = build(&graph, &[])?;
                let graph = Graph::new();
                let report = settings.apply(&graph, &trained);
                (Some(first), build(&graph, &[("report", report)])?)
            }
        };
        let (config, schedule) = (self.config, self.schedule);
        let design = Design {
            params,
            settings,
            trained,
            config,
            carried,
            ranks,
            mixed,
            schedule,
            accumulate,
            apply,
            inspection,
        };
        let trainer = Trainer::assemble(Arc::new(design), store, self.seed).await?;
        trainer.design.params.load_into(&trainer.store)?;
        trainer.agree(&states)?;
        Ok(trainer)
    }

    /// [`compile`](Self::compile), waiting on this thread.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compile_blocking(self, loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Var<'g>) -> Result<Trainer> {
        pollster::block_on(self.compile(loss))
    }

    /// [`compile_mean`](Self::compile_mean), waiting on this thread.
    ///
    /// # Errors
    /// As [`compile_mean`](Self::compile_mean).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compile_mean_blocking(
        self,
        loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Mean<'g>,
    ) -> Result<Trainer> {
        pollster::block_on(self.compile_mean(loss))
    }
}
