//! Learning rates over time.

use std::sync::Arc;

/// Factor on the learning rate at each step, computed on the host and fed to the plan.
#[derive(Clone, Default)]
pub enum Schedule {
    /// Always 1.
    #[default]
    Constant,
    /// Rises linearly to 1 over the first `steps` steps and stays there.
    Warmup {
        /// Steps until 1 is reached.
        steps: u64,
    },
    /// Rises linearly to 1 over `warmup` steps, then falls along half a cosine to `floor` at step `total` (Loshchilov
    /// and Hutter, arXiv 1608.03983, without restarts) and stays there.
    Cosine {
        /// Steps until 1 is reached.
        warmup: u64,
        /// Step at which `floor` is reached.
        total: u64,
        /// Last factor.
        floor: f64,
    },
    /// Any function of the step, which counts from 0.
    Custom(Arc<dyn Fn(u64) -> f64 + Send + Sync>),
}

impl Schedule {
    /// Factor at a step, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        let rise = |warmup: u64| ((step + 1) as f64 / warmup.max(1) as f64).min(1.0);
        match self {
            Schedule::Constant => 1.0,
            Schedule::Warmup { steps } => rise(*steps),
            Schedule::Cosine { warmup, .. } if step < *warmup => rise(*warmup),
            Schedule::Cosine { warmup, total, floor } => {
                let span = total.saturating_sub(*warmup).max(1) as f64;
                let progress = ((step - warmup) as f64 / span).min(1.0);
                floor + (1.0 - floor) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress))
            }
            Schedule::Custom(f) => f(step),
        }
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Schedule::Constant => f.write_str("constant"),
            Schedule::Warmup { steps } => write!(f, "warmup {steps}"),
            Schedule::Cosine { warmup, total, floor } => write!(f, "cosine {warmup} {total} {floor}"),
            Schedule::Custom(_) => f.write_str("custom"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    #[test]
    fn factors() {
        let warmup = Schedule::Warmup { steps: 4 };
        assert_eq!([0, 1, 3, 9].map(|s| warmup.factor(s)), [0.25, 0.5, 1.0, 1.0]);
        let cosine = Schedule::Cosine { warmup: 2, total: 12, floor: 0.1 };
        let got = [0, 1, 2, 7, 12, 99].map(|s| (cosine.factor(s) * 1e9).round() / 1e9);
        assert_eq!(got, [0.5, 1.0, 1.0, 0.55, 0.1, 0.1]);
        assert_eq!(Schedule::Warmup { steps: 0 }.factor(0), 1.0);
    }
}
