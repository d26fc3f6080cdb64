//! The trainer: one plan a step, nothing read back inside it.

use super::build::{ALLOWED, FIRST, LR, NotFinite, Settings, TURN};
use super::builder::TrainerBuilder;
use super::optimizer::Optimizer;
use super::ranks::Collective;
use super::rows::Trained;
use super::schedule::Schedule;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::nn::Params;
use crate::ops::optim::Report;
use crate::plan::{Options, Program};
use crate::types::{Tensor, TensorType};
use std::sync::{Arc, OnceLock};

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
    /// Whether their devices may differ.
    pub mixed: bool,
    pub schedule: Schedule,
    pub accumulate: Option<Arc<Program>>,
    pub apply: Arc<Program>,
    /// Loss and gradients with all that leads to them, for looking at values.
    pub inspection: Arc<Program>,
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
            mixed: false,
        }
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
    /// `TrainerBuilder::ranks` when all of them have handed over their gradients.
    ///
    /// # Errors
    /// [`Error::Name`] for an input that is missing or has another type; [`Error::NotFinite`] once the training has
    /// stopped ([`NotFinite::Stop`](super::NotFinite::Stop)); [`Error::Rank`] if one is gone; what a
    /// [device](crate::error#what-a-device-reports) reports. A batch that is not finite is no error here but one of
    /// [`loss`](Self::loss).
    pub fn step(&mut self, inputs: &[(&str, &Tensor)]) -> Result<()> {
        self.step_with(inputs, &[])
    }

    /// [`step`](Self::step) with stores for the states of the loss, such as the memories of a stream.
    ///
    /// # Errors
    /// As [`step`](Self::step), for states too.
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

    /// Loss of the last step, averaged over its micro-batches. Where a loss that is not finite began is
    /// for [`first_not_finite`](Self::first_not_finite) to say.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if that step was skipped, or if the training has stopped; else as [`report`](Self::report).
    pub async fn loss(&self) -> Result<f32> {
        let report = self.report().await?;
        if report.ok {
            return Ok(report.loss);
        }
        let last = self.steps.saturating_sub(1);
        Err(self.stop().unwrap_or(Error::NotFinite { node: wrong(&report).into(), step: last }))
    }

    /// Everything that is known about the last step: loss, norm of the gradients, counts of steps done and skipped.
    ///
    /// # Errors
    /// [`Error::Argument`] before the first whole step; what a [device](crate::error#what-a-device-reports) reports.
    pub async fn report(&self) -> Result<Report> {
        let missing = || {
            Error::argument(
                "loss",
                "no whole step was made yet; call Trainer::step first, as often as it has micro-batches",
            )
        };
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
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    #[cfg(not(target_arch = "wasm32"))]
    pub fn loss_blocking(&self) -> Result<f32> {
        pollster::block_on(self.loss())
    }

    /// [`report`](Self::report), waiting on this thread.
    ///
    /// # Errors
    /// As [`report`](Self::report).
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
    ///
    /// # Errors
    /// As [`Params::read_from`].
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
