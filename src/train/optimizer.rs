//! Optimizers with PyTorch's defaults and formulas, and groups of parameters.

use super::rows::RowUpdates;
use crate::error::{Error, Result};
use crate::graph::{Rows, Var};
use crate::ops::optim::{self, Common, Controls};
use std::ops::Range;

/// Stochastic gradient descent, with momentum as in PyTorch (Sutskever et al. 2013): [`optim::Sgd`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    lr: f64,
    momentum: f64,
    weight_decay: f64,
    nesterov: bool,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd { lr: 1e-3, momentum: 0.0, weight_decay: 0.0, nesterov: false }
    }
}

impl Sgd {
    /// Sets the learning rate.
    pub fn lr(mut self, lr: f64) -> Self {
        self.lr = lr;
        self
    }

    /// Sets the momentum, in 0..1.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Sets the weight decay, added to the gradient.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }

    /// Looks ahead along the velocity (Nesterov); needs momentum.
    pub fn nesterov(mut self, nesterov: bool) -> Self {
        self.nesterov = nesterov;
        self
    }
}

/// [`Adam`] or, with decoupled weight decay, [`AdamW`]: [`optim::Adam`].
#[derive(Clone, Debug, PartialEq)]
pub struct AdamFamily<const DECOUPLED: bool> {
    lr: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
}

/// Adam (Kingma and Ba 2014, arXiv 1412.6980): weight decay (0 by default) is added to the gradient.
pub type Adam = AdamFamily<false>;
/// AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101): weight decay (0.01 by default) acts on the parameters themselves.
pub type AdamW = AdamFamily<true>;

impl<const DECOUPLED: bool> Default for AdamFamily<DECOUPLED> {
    fn default() -> Self {
        AdamFamily { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: if DECOUPLED { 0.01 } else { 0.0 } }
    }
}

impl<const DECOUPLED: bool> AdamFamily<DECOUPLED> {
    /// Sets the learning rate.
    pub fn lr(mut self, lr: f64) -> Self {
        self.lr = lr;
        self
    }

    /// Sets the decay of the two moments, each in 0..1.
    pub fn betas(mut self, beta1: f64, beta2: f64) -> Self {
        (self.beta1, self.beta2) = (beta1, beta2);
        self
    }

    /// Sets what is added to the root of the second moment.
    pub fn eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// Sets the weight decay.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }
}

/// Any optimizer.
#[derive(Clone, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adam.
    Adam(Adam),
    /// AdamW.
    AdamW(AdamW),
}

impl From<Sgd> for Optimizer {
    fn from(o: Sgd) -> Self {
        Optimizer::Sgd(o)
    }
}

impl From<Adam> for Optimizer {
    fn from(o: Adam) -> Self {
        Optimizer::Adam(o)
    }
}

impl From<AdamW> for Optimizer {
    fn from(o: AdamW) -> Self {
        Optimizer::AdamW(o)
    }
}

/// How a group of parameters differs from the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    lr_factor: f64,
    weight_decay: Option<f64>,
    pub(super) rows: RowUpdates,
}

impl Default for Group {
    fn default() -> Self {
        Group { lr_factor: 1.0, weight_decay: None, rows: RowUpdates::Dense }
    }
}

impl Group {
    /// Multiplies the learning rate.
    pub fn lr_factor(mut self, factor: f64) -> Self {
        self.lr_factor = factor;
        self
    }

    /// Replaces the optimizer's weight decay.
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = Some(weight_decay);
        self
    }

    /// Sets how tables are updated whose gradient names some rows; by default every row at every step.
    pub fn rows(mut self, rows: RowUpdates) -> Self {
        self.rows = rows;
        self
    }

    pub(super) fn check(&self, name: &str) -> Result<()> {
        let what = format!("group {name}");
        within(&what, "learning rate factor", self.lr_factor, 0.0, f64::from(f32::MAX))?;
        within(&what, "weight decay", self.weight_decay.unwrap_or(0.0), 0.0, f64::from(f32::MAX))
    }
}

/// Refuses a value outside `from..=to`, NaN included.
fn within(what: &str, name: &str, value: f64, from: f64, to: f64) -> Result<()> {
    if (from..=to).contains(&value) {
        Ok(())
    } else {
        Err(Error::argument(what, format!("{name} must lie in {from:?}..{to:?}, got {value:?}")))
    }
}

impl Optimizer {
    /// Name, as in checkpoints.
    pub fn name(&self) -> &'static str {
        match self {
            Optimizer::Sgd(_) => "sgd",
            Optimizer::Adam(_) => "adam",
            Optimizer::AdamW(_) => "adamw",
        }
    }

    /// Learning rate before schedule and group factors.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Optimizer::Sgd(o) => o.lr,
            Optimizer::Adam(o) => o.lr,
            Optimizer::AdamW(o) => o.lr,
        }
    }

    fn decay(&self) -> f64 {
        match self {
            Optimizer::Sgd(o) => o.weight_decay,
            Optimizer::Adam(o) => o.weight_decay,
            Optimizer::AdamW(o) => o.weight_decay,
        }
    }

    /// Names of what it keeps for every parameter.
    pub(super) fn slots(&self) -> &'static [&'static str] {
        match self {
            Optimizer::Sgd(o) if o.momentum == 0.0 => &[],
            Optimizer::Sgd(_) => &["momentum"],
            _ => &["m", "v"],
        }
    }

    /// Refuses settings outside their range.
    pub(super) fn check(&self) -> Result<()> {
        let what = self.name();
        let largest = f64::from(f32::MAX);
        let below_1 = 1.0 - f64::EPSILON;
        within(what, "learning rate", self.learning_rate(), 0.0, largest)?;
        within(what, "weight decay", self.decay(), 0.0, largest)?;
        let adam = |beta1, beta2, eps| {
            within(what, "beta1", beta1, 0.0, below_1)?;
            within(what, "beta2", beta2, 0.0, below_1)?;
            within(what, "eps", eps, 0.0, largest)
        };
        match self {
            Optimizer::Sgd(o) if o.nesterov && o.momentum == 0.0 => {
                Err(Error::argument(what, "Nesterov needs momentum; set momentum"))
            }
            Optimizer::Sgd(o) => within(what, "momentum", o.momentum, 0.0, below_1),
            Optimizer::Adam(o) => adam(o.beta1, o.beta2, o.eps),
            Optimizer::AdamW(o) => adam(o.beta1, o.beta2, o.eps),
        }
    }

    /// Whether it corrects moments for the number of the step.
    pub(super) fn corrects_bias(&self) -> bool {
        !matches!(self, Optimizer::Sgd(_))
    }

    /// New parameter and slots of one flat buffer.
    pub(super) fn step<'g>(
        &self,
        param: Var<'g>,
        slots: &[Var<'g>],
        grad: Var<'g>,
        controls: &Controls<'g>,
        common: Common,
    ) -> Vec<Var<'g>> {
        match (self.kernel(common), slots) {
            (Kernel::Sgd(sgd), _) => sgd.step(param, slots.first().copied(), grad, controls),
            (Kernel::Adam(adam), &[m, v]) => adam.step(param, [m, v], grad, controls),
            // Not reached: `slots` names two.
            _ => vec![],
        }
    }

    /// New parameter and slots of a flat buffer that holds some rows of a table, and new counts if there are some.
    pub(super) fn step_rows<'g>(
        &self,
        param: Var<'g>,
        slots: &[Var<'g>],
        counts: Option<Var<'g>>,
        (grad, held): (&Rows<'g>, Range<usize>),
        controls: &Controls<'g>,
        common: Common,
    ) -> Vec<Var<'g>> {
        match (self.kernel(common), slots) {
            (Kernel::Sgd(sgd), _) => sgd.step_rows(param, slots.first().copied(), grad, held, controls),
            (Kernel::Adam(adam), &[m, v]) => adam.step_rows(param, [m, v], counts, grad, held, controls),
            // Not reached: `slots` names two.
            _ => vec![],
        }
    }

    /// What all steps of a group share.
    pub(super) fn common(&self, group: &Group, max_norm: f64) -> Common {
        Common { max_norm, lr_factor: group.lr_factor, weight_decay: group.weight_decay.unwrap_or(self.decay()) }
    }

    fn kernel(&self, common: Common) -> Kernel {
        let adam = |decoupled, beta1, beta2, eps| Kernel::Adam(optim::Adam { common, decoupled, beta1, beta2, eps });
        match self {
            Optimizer::Sgd(o) => Kernel::Sgd(optim::Sgd { common, momentum: o.momentum, nesterov: o.nesterov }),
            Optimizer::Adam(o) => adam(false, o.beta1, o.beta2, o.eps),
            Optimizer::AdamW(o) => adam(true, o.beta1, o.beta2, o.eps),
        }
    }
}

/// The operation of an optimizer.
enum Kernel {
    Sgd(optim::Sgd),
    Adam(optim::Adam),
}
