//! Adam (Kingma and Ba, arXiv 1412.6980) and AdamW (Loshchilov and Hutter, arXiv 1711.05101), as in PyTorch.

use super::{CPU_PIECE, Common, Controls, PER_GROUP, check, flag, scalar};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{Real, TensorType};
use encase::ShaderType;

/// Four elements an invocation.
pub static ADAM: Kernel = kernel!("optim/adam");

/// With `t` steps done before, `g` the clipped gradient (plus `weight_decay p` unless decoupled):
/// `m = β1 m + (1-β1) g`, `v = β2 v + (1-β2) g²`,
/// `p = p (1 - lr weight_decay if decoupled) - lr / (1-β1^(t+1)) m / (√(v / (1-β2^(t+1))) + ε)`.
#[derive(Clone, Debug)]
pub struct Adam {
    /// Clipping, learning rate factor, weight decay.
    pub common: Common,
    /// Weight decay acts on the parameter itself (AdamW) and not through the gradient (Adam).
    pub decoupled: bool,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

#[derive(ShaderType)]
struct Meta {
    quads: u32,
    decoupled: u32,
    max_norm: f32,
    lr_factor: f32,
    weight_decay: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    ln_beta1: f32,
    ln_beta2: f32,
    eps: f32,
}

/// ln β, finite also for β = 0.
pub(super) fn ln(beta: f64) -> f64 {
    libm::log(beta).max(-1e4)
}

impl Adam {
    /// New parameter and moments; all of one length, a multiple of 4.
    #[track_caller]
    pub fn step<'g>(
        self,
        param: Var<'g>,
        moments: [Var<'g>; 2],
        grad: Var<'g>,
        controls: &Controls<'g>,
    ) -> Vec<Var<'g>> {
        let c = controls;
        let [m, v] = moments;
        let inputs = [param, m, v, grad, c.lr, c.norm_sq, c.ok, c.progress];
        param.graph().apply(self, &inputs)
    }

    /// Factors of the step that is number `t` (from 1), for learning rate and squared norm as read on the device.
    pub(super) fn factors<T: Real>(&self, t: f64, lr: T, norm_sq: T) -> Factors<T> {
        let correction1 = T::of(-libm::expm1(t * ln(self.beta1)));
        let rate = lr * T::of(self.common.lr_factor);
        Factors {
            decoupled: self.decoupled,
            rate,
            pace: rate / correction1,
            correction2: T::of(-libm::expm1(t * ln(self.beta2))).sqrt(),
            clip: self.common.clip(norm_sq),
            decay: T::of(self.common.weight_decay),
            beta1: [T::of(self.beta1), T::of(1.0 - self.beta1)],
            beta2: [T::of(self.beta2), T::of(1.0 - self.beta2)],
            eps: T::of(self.eps),
        }
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        if flag(call, 6) == 0 {
            return;
        }
        let factors = self.factors(f64::from(flag(call, 7)) + 1.0, scalar(call, 4), scalar(call, 5));
        let grad = call.f(3);
        let buffers = [call.take(0), call.take(1), call.take(2)];
        par::zipped(
            buffers,
            CPU_PIECE,
            #[inline(always)]
            |start, buffers| factors.update(buffers, &grad[start..]),
        );
    }
}

/// What one step needs on the CPU, worked out once.
pub(super) struct Factors<T> {
    decoupled: bool,
    rate: T,
    pace: T,
    correction2: T,
    clip: T,
    decay: T,
    beta1: [T; 2],
    beta2: [T; 2],
    eps: T,
}

impl<T: Real> Factors<T> {
    /// Updates parameters and moments in place.
    #[inline(always)]
    pub fn update(&self, [p, m, v]: [&mut [T]; 3], grad: &[T]) {
        let (shrink, decay) = match self.decoupled {
            true => (T::ONE - self.rate * self.decay, T::ZERO),
            false => (T::ONE, self.decay),
        };
        for ((p, (m, v)), &g) in p.iter_mut().zip(m.iter_mut().zip(v)).zip(grad) {
            let g = g * self.clip + decay * *p;
            *p *= shrink;
            *m = self.beta1[0] * *m + self.beta1[1] * g;
            *v = self.beta2[0] * *v + self.beta2[1] * g * g;
            *p -= self.pace * *m / (v.sqrt() / self.correction2 + self.eps);
        }
    }
}

impl Op for Adam {
    fn name(&self) -> &'static str {
        if self.decoupled { "adamw" } else { "adam" }
    }

    fn outputs(&self) -> usize {
        3
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        if inputs.get(7) != Some(&TensorType::u32([2])) {
            return Refusal::shape("the counts of steps done and skipped are u32[2]");
        }
        check(inputs, 4)
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 1), (2, 2)]
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.outputs[0].numel();
        let meta = Meta {
            quads: (n / 4) as u32,
            decoupled: u32::from(self.decoupled),
            max_norm: self.common.max_norm as f32,
            lr_factor: self.common.lr_factor as f32,
            weight_decay: self.common.weight_decay as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            ln_beta1: ln(self.beta1) as f32,
            ln_beta2: ln(self.beta2) as f32,
            eps: self.eps as f32,
        };
        let mut d = cx.dispatch(&ADAM);
        for input in 3..8 {
            d = d.input(input);
        }
        d.output(0).output(1).output(2).uniform(&meta).workgroups(n.div_ceil(PER_GROUP))
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    for (n, decoupled) in [(0, false), (4, true), (1028, false), (70_400, true)] {
        let name = format!("adam {n} {decoupled}");
        let sample = Sample::new(name, [&[n], &[n], &[n], &[n], &[]], move |g, x| {
            let common = Common { max_norm: 0.7, lr_factor: 0.5, weight_decay: 0.1 };
            let adam = Adam { common, decoupled, beta1: 0.9, beta2: 0.999, eps: 1e-3 };
            let controls = Controls { lr: x[4], norm_sq: g.full([], 2.0), ok: g.full_u32([], 1), progress: x[5] };
            let closed = Controls { ok: g.full_u32([], 0), ..controls };
            let mut all = adam.clone().step(x[0], [x[1], x[2].square()], x[3], &controls);
            all.extend(adam.step(x[0], [x[1], x[2]], x[3], &closed));
            all
        });
        all.push(sample.positive(4).below(&[2], 1000).no_gradient());
    }
    all
}
