//! The operation: shapes, geometry, gradient, and a twin in plain Rust for each kernel.

use wgrad::graph::{Cotangent, Vjp};
use wgrad::kernels::CpuCall;
use wgrad::ops::custom::Twin;
use wgrad::types::Real;
use wgrad::{CustomOp, DType, Result};

pub const FORWARD: &str = include_str!("forward.wgsl");
const BACKWARD: &str = include_str!("backward.wgsl");

/// The kernels in plain Rust.
struct Forward;
struct Backward;

impl Twin for Forward {
    fn run<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (x, a) = (call.f(0), call.f(1));
        for (i, y) in call.out(0).iter_mut().enumerate() {
            let (x, a) = (x[i], a[i % a.len()]);
            let s = (a * x).sin();
            *y = x + s * s / a;
        }
    }
}

impl Twin for Backward {
    fn run<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (x, a, g) = (call.f(0), call.f(1), call.f(2));
        let (dx, da) = (call.take(0), call.take(1));
        for i in 0..g.len() {
            let (x, a, g) = (x[i], a[i % a.len()], g[i]);
            let (s, double) = ((a * x).sin(), (T::of(2.0) * a * x).sin());
            dx[i] = g * (T::ONE + double);
            da[i] = g * (x * double - s * s / a) / a;
        }
    }
}

/// The operation on `x [.., channels]` and `a [channels]`; its gradient is the other kernel.
pub fn snake() -> Result<CustomOp> {
    let words = |out: &[wgrad::Shape]| vec![out[0].numel() as u32, out[0].last().copied().unwrap_or(1).max(1) as u32];
    let backward = CustomOp::builder("snake backward", BACKWARD)
        .inputs([DType::F32; 3])
        .outputs([DType::F32; 2])
        .shapes(|inputs| Ok(vec![inputs[0].clone(), inputs[0].clone()]))
        .uniform(move |_, out| words(out))
        .workgroups(|_, out| out[0].numel().div_ceil(64))
        .cpu(Backward)
        .build()?;
    CustomOp::builder("snake", FORWARD)
        .inputs([DType::F32; 2])
        .outputs([DType::F32])
        .shapes(|inputs| match (inputs[0].last(), &inputs[1][..]) {
            (Some(channels), [rates]) if channels == rates => Ok(vec![inputs[0].clone()]),
            _ => wgrad::error::Refusal::shape("expected x [.., channels] and a [channels]"),
        })
        .uniform(move |_, out| words(out))
        .workgroups(|_, out| out[0].numel().div_ceil(64))
        .vjp(move |cx| gradient(&backward, cx))
        .cpu(Forward)
        .build()
}

fn gradient<'g>(backward: &CustomOp, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
    let Some(g) = cx.cotangent() else { return cx.none() };
    let (x, a) = (cx.inputs[0], cx.inputs[1]);
    let grads = backward.apply(&[x, a, g]);
    // Every element has its own share of the channel's gradient.
    cx.dense([Some(grads[0]), Some(grads[1].sum_to(a.shape()))])
}
