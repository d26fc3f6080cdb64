//! Stochastic gradient descent with momentum (Sutskever et al. 2013), as in PyTorch.

use super::{CPU_PIECE, Common, Controls, PER_GROUP, check, flag, scalar};
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{Real, TensorType};
use encase::ShaderType;

/// Without momentum.
pub static SGD: Kernel = kernel!("optim/sgd");
/// With momentum.
pub static MOMENTUM: Kernel = kernel!("optim/momentum");

/// With `g` the clipped gradient plus `weight_decay p`: `p = p - lr g`; with momentum µ: `v = µ v + g` and
/// `p = p - lr v`, or `p = p - lr (g + µ v)` by Nesterov.
#[derive(Clone, Debug)]
pub struct Sgd {
    /// Clipping, learning rate factor, weight decay.
    pub common: Common,
    /// Decay of the velocity; 0 is plain descent without a velocity buffer.
    pub momentum: f64,
    /// Look ahead along the new velocity.
    pub nesterov: bool,
}

#[derive(ShaderType)]
struct Plain {
    quads: u32,
    max_norm: f32,
    lr_factor: f32,
    weight_decay: f32,
}

#[derive(ShaderType)]
struct Heavy {
    quads: u32,
    max_norm: f32,
    lr_factor: f32,
    weight_decay: f32,
    momentum: f32,
    nesterov: u32,
}

impl Sgd {
    /// New parameter, and velocity if there is momentum; all of one length, a multiple of 4.
    #[track_caller]
    pub fn step<'g>(
        self,
        param: Var<'g>,
        velocity: Option<Var<'g>>,
        grad: Var<'g>,
        controls: &Controls<'g>,
    ) -> Vec<Var<'g>> {
        let c = controls;
        let mut inputs = vec![param];
        inputs.extend(velocity);
        inputs.extend([grad, c.lr, c.norm_sq, c.ok]);
        param.graph().apply(self, &inputs)
    }

    /// Number of flat buffers that are updated.
    pub(super) fn buffers(&self) -> usize {
        if self.momentum == 0.0 { 1 } else { 2 }
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let n = self.buffers();
        if flag(call, n + 3) == 0 {
            return;
        }
        let factors = self.factors(scalar(call, n + 1), scalar(call, n + 2));
        let grad = call.f(n);
        if n == 1 {
            par::zipped(
                [call.take(0)],
                CPU_PIECE,
                #[inline(always)]
                |start, [p]| factors.plain(p, &grad[start..]),
            );
        } else {
            let buffers = [call.take(0), call.take(1)];
            par::zipped(
                buffers,
                CPU_PIECE,
                #[inline(always)]
                |start, buffers| factors.heavy(buffers, &grad[start..]),
            );
        }
    }

    /// Factors of a step for learning rate and squared norm as read on the device.
    pub(super) fn factors<T: Real>(&self, lr: T, norm_sq: T) -> Factors<T> {
        Factors {
            rate: lr * T::of(self.common.lr_factor),
            clip: self.common.clip(norm_sq),
            decay: T::of(self.common.weight_decay),
            momentum: T::of(self.momentum),
            nesterov: self.nesterov,
        }
    }
}

/// What one step needs on the CPU, worked out once.
pub(super) struct Factors<T> {
    rate: T,
    clip: T,
    decay: T,
    momentum: T,
    nesterov: bool,
}

impl<T: Real> Factors<T> {
    /// Updates parameters in place.
    #[inline(always)]
    pub fn plain(&self, p: &mut [T], grad: &[T]) {
        for (p, &g) in p.iter_mut().zip(grad) {
            let g = g * self.clip + self.decay * *p;
            *p -= self.rate * g;
        }
    }

    /// Updates parameters and velocities in place.
    #[inline(always)]
    pub fn heavy(&self, [p, v]: [&mut [T]; 2], grad: &[T]) {
        for ((p, v), &g) in p.iter_mut().zip(v).zip(grad) {
            let g = g * self.clip + self.decay * *p;
            *v = self.momentum * *v + g;
            *p -= self.rate * if self.nesterov { g + self.momentum * *v } else { *v };
        }
    }
}

impl Op for Sgd {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn outputs(&self) -> usize {
        self.buffers()
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        check(inputs, self.buffers() + 1)
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.none()
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        if self.buffers() == 1 { &[(0, 0)] } else { &[(0, 0), (1, 1)] }
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let n = cx.outputs[0].numel();
        let (quads, groups) = ((n / 4) as u32, n.div_ceil(PER_GROUP));
        let max_norm = self.common.max_norm as f32;
        let lr_factor = self.common.lr_factor as f32;
        let weight_decay = self.common.weight_decay as f32;
        if self.buffers() == 1 {
            let meta = Plain { quads, max_norm, lr_factor, weight_decay };
            let d = cx.dispatch(&SGD).input(1).input(2).input(3).input(4).output(0);
            return d.uniform(&meta).workgroups(groups);
        }
        let meta = Heavy {
            quads,
            max_norm,
            lr_factor,
            weight_decay,
            momentum: self.momentum as f32,
            nesterov: u32::from(self.nesterov),
        };
        let d = cx.dispatch(&MOMENTUM).input(2).input(3).input(4).input(5).output(0).output(1);
        d.uniform(&meta).workgroups(groups)
    }
}

pub(super) fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let mut all = Vec::new();
    for (n, momentum, nesterov) in [(0, 0.0, false), (4, 0.0, false), (1028, 0.9, false), (70_400, 0.9, true)] {
        let name = format!("sgd {n} {momentum} {nesterov}");
        let sample = Sample::new(name, [&[n], &[n], &[n], &[]], move |g, x| {
            let common = Common { max_norm: 0.7, lr_factor: 0.5, weight_decay: 0.1 };
            let sgd = Sgd { common, momentum, nesterov };
            let controls =
                Controls { lr: x[3], norm_sq: g.full([], 2.0), ok: g.full_u32([], 1), progress: g.full_u32([2], 0) };
            let closed = Controls { ok: g.full_u32([], 0), ..controls };
            let velocity = (momentum > 0.0).then_some(x[1]);
            let mut all = sgd.clone().step(x[0], velocity, x[2], &controls);
            all.extend(sgd.step(x[0], velocity, x[2], &closed));
            all
        });
        all.push(sample.positive(3).no_gradient());
    }
    all
}
