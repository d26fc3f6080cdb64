//! The trainer: one plan a step, nothing read back inside it.

use super::build::{ALLOWED, FIRST, LR, Mean, NotFinite, Parts, Settings, TURN};
use super::optimizer::{Group, Optimizer};
use super::ranks::{Collective, Digest};
use super::rows::Trained;
use super::schedule::Schedule;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::graph::{Graph, Var};
use crate::nn::{ParamVars, Params};
use crate::ops::optim::Report;
use crate::plan::{Options, Program};
use crate::types::{Tensor, TensorType};
use std::sync::{Arc, OnceLock};

/// Settings of a trainer; [`compile`](Self::compile) makes it.
pub struct TrainerBuilder {
    device: Device,
    params: Params,
    settings: Settings,
    schedule: Schedule,
    seed: u64,
    config: String,
    options: Options,
    carried: Vec<(String, TensorType)>,
    ranks: Option<Arc<dyn Collective>>,
}

/// Trains parameters on one device. A step is one plan: loss, gradients, clipping and optimizer, in one submit.
///
/// A step whose loss or gradients are not finite changes nothing; it is counted and reported when the loss is read. Whether
/// training goes on after it is [`TrainerBuilder::on_not_finite`].
///
/// ```no_run
/// # use wgrad::{Device, TensorType, nn::{Linear, Params}, train::{AdamW, Trainer}};
/// # async fn f(x: wgrad::Tensor, y: wgrad::Tensor) -> wgrad::Result<()> {
/// let mut params = Params::new(1);
/// let layer = Linear::new(&mut params, "layer", 8, 1, true);
/// let device = Device::auto().await?;
/// let mut trainer = Trainer::builder(&device, params, AdamW::default().lr(1e-2))
///     .clip(1.0)
///     .compile(|g, p| {
///         let x = g.input("x", TensorType::f32([32, 8]));
///         let y = g.input("y", TensorType::f32([32, 1]));
///         (layer.forward(p, x) - y).square().mean_all()
///     })
///     .await?;
/// for _ in 0..100 {
///     trainer.step(&[("x", &x), ("y", &y)])?;
/// }
/// println!("{}", trainer.loss().await?);
/// # Ok(())
/// # }
/// ```
pub struct Trainer {
    pub(super) design: Arc<Design>,
    pub(super) store: Store,
    pub(super) seed: u64,
    /// Micro-batches so far: the step number of random numbers.
    pub(super) runs: u32,
    /// Steps so far, skipped ones included: the step number of the schedule.
    pub(super) steps: u64,
    /// Whether the plan's report is about these parameters: not before the first step, nor after a resume.
    pub(super) reported: bool,
    /// Steps that were skipped before the training began or went on; with [`NotFinite::Stop`] one more ends it.
    pub(super) allowed: u32,
    /// With [`NotFinite::Stop`]: the step that ended the training and what was wrong, once a report has said so.
    pub(super) stopped: OnceLock<(u64, &'static str)>,
    /// Loss and gradients into totals, when a step has several micro-batches.
    accumulate: Option<Plan>,
    /// The optimizer, and without micro-batches everything before it.
    pub(super) apply: Plan,
}

/// A trainer without its device and what it has learnt: settings, and programs.
pub(super) struct Design {
    pub params: Params,
    pub settings: Settings,
    pub trained: Vec<Trained>,
    pub config: String,
    /// States of the loss that go into checkpoints.
    pub carried: Vec<(String, TensorType)>,
    /// Those that make every step together with this one.
    pub ranks: Option<Arc<dyn Collective>>,
    schedule: Schedule,
    accumulate: Option<Arc<Program>>,
    apply: Arc<Program>,
    /// Loss and gradients with all that leads to them, for looking at values.
    pub inspection: Arc<Program>,
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
    ///   is the batch's ([`Feed::rank`]), as it is in all models here; the first axis of what the loss
    ///   [carries](Self::carry) is the batch's too;
    /// * what mixes the samples of a batch, as batch normalization does, sees those of its own rank, and its running
    ///   statistics are each rank's own.
    ///
    /// A step waits for all ranks: dense gradients are summed over them, hits of tables updated by rows
    /// ([`RowUpdates`](super::RowUpdates)) are gathered. The report and whether a step is skipped are the same on all ranks.
    /// Rank 0 alone writes the file of [`Trainer::save`], which holds what all ranks carry and can be loaded by any number
    /// of ranks that share the same whole batch; every rank loads it. A rank that ends ends the others' next call with
    /// [`Error::Rank`]; nothing of an unfinished step is kept.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn ranks(mut self, ranks: impl Collective + 'static) -> Self {
        self.settings.ranks = u32::try_from(ranks.ranks()).unwrap_or(0);
        self.ranks = (self.settings.ranks > 1).then(|| Arc::new(ranks) as Arc<dyn Collective>);
        self
    }

    /// Sets what compiling may do.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Compiles the step. `loss` builds one scalar from the graph and the parameters; it declares the inputs it wants
    /// with [`Graph::input`] and may keep states with [`Graph::state`] and [`Graph::assign`], but sets no gate.
    pub async fn compile(self, loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Var<'g>) -> Result<Trainer> {
        self.build(|graph, params| (loss(graph, params), None)).await
    }

    /// [`compile`](Self::compile) with a loss that is the mean over what counts: a sum, and how many terms it has. The loss of
    /// a step is the sum of all its micro-batches, on all [`ranks`](Self::ranks), divided by what all of them count; 0 if that
    /// is nothing. So micro-batches that count more weigh more, as in one large batch.
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
        let TrainerBuilder { device, mut params, settings, ranks, .. } = self;
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
        let design =
            Design { params, settings, trained, config, carried, ranks, schedule, accumulate, apply, inspection };
        let trainer = Trainer::assemble(Arc::new(design), store, self.seed).await?;
        trainer.design.params.load_into(&trainer.store)?;
        if trainer.ranks() > 1 {
            trainer.agree(
                &[trainer.digest(&states)?],
                "trains something else than rank 0: model, batch, optimizer, settings, seed and first values must be the same",
            )?;
        }
        Ok(trainer)
    }

    /// [`compile`](Self::compile), waiting on this thread.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compile_blocking(self, loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Var<'g>) -> Result<Trainer> {
        pollster::block_on(self.compile(loss))
    }

    /// [`compile_mean`](Self::compile_mean), waiting on this thread.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn compile_mean_blocking(
        self,
        loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Mean<'g>,
    ) -> Result<Trainer> {
        pollster::block_on(self.compile_mean(loss))
    }
}

impl Trainer {
    /// Starts with constant learning rate, no clipping and one batch a step.
    pub fn builder(device: &Device, params: Params, optimizer: impl Into<Optimizer>) -> TrainerBuilder {
        TrainerBuilder {
            device: device.clone(),
            seed: params.seed(),
            params,
            settings: Settings {
                optimizer: optimizer.into(),
                groups: Vec::new(),
                max_norm: 0.0,
                micro: 1,
                ranks: 1,
                counted: false,
                not_finite: NotFinite::default(),
            },
            schedule: Schedule::default(),
            config: String::new(),
            options: Options::default(),
            carried: Vec::new(),
            ranks: None,
        }
    }

    /// Digest of what ranks must have in common.
    fn digest(&self, states: &[(String, TensorType)]) -> Result<u64> {
        let Design { params, settings, config, schedule, .. } = &*self.design;
        let mut digest = Digest::default();
        digest.write(format!("{settings:?} {schedule:?} {config} {} {states:?}", self.seed).as_bytes());
        params.write(Default::default(), |part| {
            digest.write(part);
            Ok(())
        })?;
        Ok(digest.value())
    }

    /// Compiles the programs of a design for the device of `store`, which has its states.
    pub(super) async fn assemble(design: Arc<Design>, store: Store, seed: u64) -> Result<Trainer> {
        let device = store.device().clone();
        let accumulate = match &design.accumulate {
            Some(program) => Some(device.prepare(program.clone()).await?),
            None => None,
        };
        let apply = device.prepare(design.apply.clone()).await?;
        Ok(Trainer {
            design,
            store,
            seed,
            runs: 0,
            steps: 0,
            reported: false,
            allowed: 0,
            stopped: OnceLock::new(),
            accumulate,
            apply,
        })
    }

    /// One batch (a micro-batch if gradients are accumulated). Returns when the work is queued; with
    /// [`ranks`](TrainerBuilder::ranks) when all of them have handed over their gradients.
    pub fn step(&mut self, inputs: &[(&str, &Tensor)]) -> Result<()> {
        self.step_with(inputs, &[])
    }

    /// [`step`](Self::step) with stores for the states of the loss, such as the memories of a stream.
    pub fn step_with(&mut self, inputs: &[(&str, &Tensor)], stores: &[&Store]) -> Result<()> {
        if let Some(error) = self.stop() {
            return Err(error);
        }
        let micro = self.design.settings.micro;
        let turn = self.runs % micro;
        let controls = controls(self.learning_rate(), turn, self.allowed)?;
        let feed = self.feed(&controls, inputs, stores).step(self.runs, self.seed);
        if let Some(plan) = &self.accumulate {
            plan.run(&feed)?;
        }
        if turn + 1 == micro {
            #[cfg(not(target_arch = "wasm32"))]
            self.join()?;
            self.apply.run(&feed)?;
            self.steps = self.steps.saturating_add(1);
            self.reported = true;
        }
        self.runs = self.runs.wrapping_add(1);
        Ok(())
    }

    /// What the plans of a step get: the trainer's own states before the caller's, and controls beside the batch.
    pub(super) fn feed<'a>(
        &'a self,
        controls: &'a [(&'static str, Tensor)],
        inputs: &[(&'a str, &'a Tensor)],
        stores: &[&'a Store],
    ) -> Feed<'a> {
        let feed = Feed::new().rank(self.rank() as u32);
        let feed = stores.iter().fold(feed.store(&self.store), |feed, store| feed.store(store));
        let controls = controls.iter().map(|(name, tensor)| (*name, tensor));
        controls.chain(inputs.iter().copied()).fold(feed, |feed, (name, tensor)| feed.input(name, tensor))
    }

    /// Learning rate of the next step, before group factors.
    pub fn learning_rate(&self) -> f64 {
        self.design.settings.optimizer.learning_rate() * self.design.schedule.factor(self.steps)
    }

    /// Loss of the last step, averaged over its micro-batches. [`Error::NotFinite`] if that step was skipped, or if the
    /// training has stopped; [`first_not_finite`](Self::first_not_finite) says where it began.
    pub async fn loss(&self) -> Result<f32> {
        let report = self.report().await?;
        if report.ok {
            return Ok(report.loss);
        }
        let last = self.steps.saturating_sub(1);
        Err(self.stop().unwrap_or(Error::NotFinite { node: wrong(&report).into(), step: last }))
    }

    /// Everything that is known about the last step: loss, norm of the gradients, counts of steps done and skipped.
    pub async fn report(&self) -> Result<Report> {
        let missing = || Error::argument("report", "no whole step was made yet; call step first");
        if !self.reported {
            return Err(missing());
        }
        let words = self.apply.read("report").await?;
        let report = Report::from_words(words.ints()).ok_or_else(missing)?;
        if !report.ok && self.design.settings.not_finite == NotFinite::Stop {
            // All steps from that one on were skipped.
            let step = u64::from(report.done) + u64::from(self.allowed);
            let node = if step + 1 == self.steps { wrong(&report) } else { "loss or gradients" };
            let _ = self.stopped.set((step, node));
        }
        Ok(report)
    }

    /// Why no further step is made, if the training has stopped.
    fn stop(&self) -> Option<Error> {
        let (step, node) = *self.stopped.get()?;
        Some(Error::NotFinite { node: node.to_owned(), step })
    }

    /// Goes on from states that are in the store now: what was skipped before them is past.
    pub(super) fn go_on(&mut self, runs: u32, steps: u64, seed: u64, skipped: u32) {
        (self.runs, self.steps, self.seed, self.allowed) = (runs, steps, seed, skipped);
        self.reported = false;
        self.stopped = OnceLock::new();
    }

    /// [`loss`](Self::loss), waiting on this thread.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn loss_blocking(&self) -> Result<f32> {
        pollster::block_on(self.loss())
    }

    /// [`report`](Self::report), waiting on this thread.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn report_blocking(&self) -> Result<Report> {
        pollster::block_on(self.report())
    }

    /// Steps so far, skipped ones included.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Seed of random numbers in the loss.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Where parameters and moments live; evaluation plans run on it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Names, shapes and groups of the parameters, to build other graphs with; the values are those from the start.
    pub fn params(&self) -> &Params {
        &self.design.params
    }

    /// Parameters of which only touched rows are updated, see [`RowUpdates`](super::RowUpdates). What else is in their
    /// groups has dense gradients.
    pub fn row_updates(&self) -> impl Iterator<Item = &str> {
        self.design.trained.iter().filter_map(|t| Some(t.table.as_ref()?.name.as_str()))
    }

    /// The parameters with their present values.
    pub async fn read_params(&self) -> Result<Params> {
        let mut params = self.design.params.clone();
        params.read_from(&self.store).await?;
        Ok(params)
    }

    /// Bytes on the device: parameters, moments, totals and the plans' own memory.
    pub fn bytes(&self) -> u64 {
        let accumulate = self.accumulate.as_ref().map_or(0, Plan::bytes);
        self.store.bytes() + self.apply.bytes() + accumulate
    }

    /// The compiled plans: for micro-batches first, then the step.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.accumulate.iter().chain([&self.apply])
    }
}

/// What the plans of a step want to know beside the batch.
pub(super) fn controls(lr: f64, turn: u32, allowed: u32) -> Result<[(&'static str, Tensor); 4]> {
    let number = |n: u32| Tensor::u32([], vec![n]);
    let first = number(u32::from(turn == 0))?;
    Ok([(LR, Tensor::scalar(lr as f32)), (FIRST, first), (TURN, number(turn)?), (ALLOWED, number(allowed)?)])
}

/// What was not finite in a step.
fn wrong(report: &Report) -> &'static str {
    if report.loss.is_finite() { "norm of the gradients" } else { "loss" }
}
