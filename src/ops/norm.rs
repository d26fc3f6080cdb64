//! Normalization of rows: layer norm, RMS norm and L2 normalization, one kernel forward.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let x = graph.constant(Tensor::f32([1, 2], vec![3.0, 4.0])?);
//! let plan = Device::cpu().compile_blocking(&graph, &[("unit", x.l2_normalize(1e-12)), ("layer", x.layer_norm(None, None, 0.0))])?;
//! plan.run(&Feed::new())?;
//! let near = |a: &[f32], b: [f32; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
//! assert!(near(plan.read_blocking("unit")?.floats(), [0.6, 0.8]));
//! assert!(near(plan.read_blocking("layer")?.floats(), [-1.0, 1.0]));
//! # Ok(())
//! # }
//! ```

use super::norm_grad::{NormGrad, NormParams};
use super::softmax::row_grid;
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::{dot, sum, sum_by};
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, TensorType};
use encase::ShaderType;

/// One row a workgroup or an invocation.
pub static NORM: Kernel = kernel!("rowwise/norm");

/// Elements that one thread takes at a time on the CPU.
const GRAIN: usize = 1 << 13;

/// By what a row is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `(x - mean) / sqrt(var + eps)` with the biased variance.
    Layer,
    /// `x scale / max(|x|, eps)`.
    Length {
        /// 1, or sqrt(n) for the RMS norm.
        scale: f64,
    },
}

/// What the forward and the backward operations share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub kind: Kind,
    pub eps: f64,
    /// Whether the normalized row is multiplied by gamma `[n]`.
    pub gamma: bool,
    /// Whether beta `[n]` is added.
    pub beta: bool,
}

impl Rule {
    pub fn center(&self) -> bool {
        self.kind == Kind::Layer
    }

    pub fn scale(&self) -> f64 {
        match self.kind {
            Kind::Layer => 1.0,
            Kind::Length { scale } => scale,
        }
    }

    /// What is kept of a row.
    #[inline(always)]
    fn stats<T: Real>(&self, row: &[T]) -> (T, T) {
        let (n, eps) = (T::of(row.len() as f64), T::of(self.eps));
        if self.center() {
            let mean = sum(row) / n;
            let var = sum_by(row, row, |v, _| (v - mean) * (v - mean)) / n;
            (mean, T::ONE / (var + eps).sqrt())
        } else {
            let length = dot(row, row).sqrt();
            (length, T::of(self.scale()) / length.max(eps))
        }
    }

    /// What the projection of the gradient on the normalized row is multiplied by.
    pub fn share(&self, n: usize) -> f64 {
        match self.kind {
            Kind::Layer => 1.0 / n.max(1) as f64,
            Kind::Length { scale } => 1.0 / (scale * scale),
        }
    }

    /// The normalized rows, composed from simple operations: what second derivatives go through.
    pub fn composed<'g>(&self, x: Var<'g>) -> Var<'g> {
        let axis = x.rank().saturating_sub(1);
        match self.kind {
            Kind::Layer => {
                let c = x - x.mean(axis);
                c / (c.square().mean(axis) + self.eps).sqrt()
            }
            Kind::Length { scale } => {
                // The clamp stands inside the root, whose slope at 0 is infinite.
                let squares = x.square().sum(axis).maximum(self.eps * self.eps);
                x * scale / squares.sqrt()
            }
        }
    }
}

/// Outputs: the rows, and per row (mean, 1/deviation) or (length, factor), `[.., 2]`.
#[derive(Clone, Debug)]
struct Norm(Rule);

#[derive(ShaderType)]
struct Meta {
    rows: u32,
    n: u32,
    eps: f32,
    scale: f32,
}

impl Norm {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let rule = self.0;
        let (_, n) = call.inputs[0].shape.rows();
        let x = call.f(0);
        let (stats, y) = (call.take(1), call.take(0));
        let gamma = rule.gamma.then(|| call.f(1));
        let beta = rule.beta.then(|| call.f(1 + usize::from(rule.gamma)));
        let rows = stats.len() / 2;
        par::ragged_pair(
            (stats, 2),
            (y, n),
            rows,
            (GRAIN / n.max(1)).max(1),
            #[inline(always)]
            |_, piece, stats, y| {
                let first = piece * (GRAIN / n).max(1);
                for (i, (s, y)) in stats.chunks_mut(2).zip(y.chunks_mut(n)).enumerate() {
                    let row = &x[(first + i) * n..(first + i + 1) * n];
                    (s[0], s[1]) = rule.stats(row);
                    let (mean, factor) = (if rule.center() { s[0] } else { T::ZERO }, s[1]);
                    match (gamma, beta) {
                        (Some(gamma), Some(beta)) => {
                            for (((y, &x), &g), &b) in y.iter_mut().zip(row).zip(gamma).zip(beta) {
                                *y = (x - mean) * factor * g + b;
                            }
                        }
                        _ => {
                            y.iter_mut().zip(row).for_each(|(y, &x)| *y = (x - mean) * factor);
                            gamma.into_iter().for_each(|gamma| y.iter_mut().zip(gamma).for_each(|(y, &g)| *y *= g));
                            beta.into_iter().for_each(|beta| y.iter_mut().zip(beta).for_each(|(y, &b)| *y += b));
                        }
                    }
                }
            },
        );
    }
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        match self.0.kind {
            Kind::Layer => "layer_norm",
            Kind::Length { scale: 1.0 } => "l2_normalize",
            Kind::Length { .. } => "rms_norm",
        }
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let x = &inputs[0];
        x.require(DType::F32, "convert with to_f32")?;
        let Some(&n) = x.shape.last() else {
            return Refusal::shape("needs at least one dimension");
        };
        for p in &inputs[1..] {
            p.require(DType::F32, "gains and offsets are floats")?;
            if p.shape[..] != [n] {
                return Refusal::shape(format!("expected gain and offset [{n}], got {}", p.shape));
            }
        }
        let mut stats = x.shape.clone();
        if let Some(last) = stats.0.last_mut() {
            *last = 2;
        }
        Ok(vec![x.clone(), TensorType::f32(stats)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let rule = self.0;
        let (x, stats) = (cx.inputs[0], cx.outputs[1]);
        let gamma = if rule.gamma { &cx.inputs[1..2] } else { &[] };
        let inputs = [&[stats, g], gamma].concat();
        let mut grads = vec![Some(x.op(NormGrad(rule), &inputs))];
        if rule.gamma || rule.beta {
            let sums = x.op(NormParams(rule), &[stats, g]);
            let rows = [rule.gamma.then_some(0), rule.beta.then_some(1)];
            grads.extend(rows.into_iter().flatten().map(|i| Some(sums.select_index(0, i))));
        }
        cx.dense(grads)
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let rule = self.0;
        let (rows, n) = cx.inputs[0].shape().rows();
        let meta = Meta { rows: rows as u32, n: n as u32, eps: rule.eps as f32, scale: rule.scale() as f32 };
        let (lanes, groups) = row_grid(cx, rows, n);
        // A missing gain or offset is not read; the rows stand in for its binding.
        let gamma = usize::from(rule.gamma);
        let beta = if rule.beta { 1 + gamma } else { 0 };
        cx.dispatch(&NORM)
            .constant("LANES", lanes as f64)
            .constant("CENTER", f64::from(u8::from(rule.center())))
            .constant("GAMMA", f64::from(u8::from(rule.gamma)))
            .constant("BETA", f64::from(u8::from(rule.beta)))
            .input(0)
            .input(gamma)
            .input(beta)
            .output(0)
            .output(1)
            .uniform(&meta)
            .workgroups(if n == 0 { 0 } else { groups })
    }
}

impl<'g> Var<'g> {
    #[track_caller]
    fn norm(self, kind: Kind, eps: f64, gamma: Option<Var<'g>>, beta: Option<Var<'g>>) -> Var<'g> {
        let rule = Rule { kind, eps, gamma: gamma.is_some(), beta: beta.is_some() };
        let others: Vec<Var<'g>> = gamma.into_iter().chain(beta).collect();
        self.op(Norm(rule), &others)
    }

    /// Layer norm over the last axis: `(x - mean) / sqrt(var + eps) gamma + beta` with the biased variance
    /// (Ba et al. 2016, arXiv 1607.06450). `gamma` and `beta` are `[n]` or absent; PyTorch's `eps` is 1e-5.
    #[track_caller]
    pub fn layer_norm(self, gamma: impl Into<Option<Var<'g>>>, beta: impl Into<Option<Var<'g>>>, eps: f64) -> Var<'g> {
        self.norm(Kind::Layer, eps, gamma.into(), beta.into())
    }

    /// RMS norm over the last axis: `x / max(|x|, 1e-12) sqrt(n) gamma` with the Euclidean length (Zhang and Sennrich
    /// 2019, arXiv 1910.07467, in the form without an epsilon in the root). `gamma` is `[n]` or absent.
    #[track_caller]
    pub fn rms_norm(self, gamma: impl Into<Option<Var<'g>>>) -> Var<'g> {
        let scale = (self.dim(-1) as f64).sqrt();
        self.norm(Kind::Length { scale }, 1e-12, gamma.into(), None)
    }

    /// Rows of unit length: `x / max(|x|, eps)` over the last axis of f32 `[.., n]`. Below `eps` the row is only scaled, and no gradient
    /// flows through its length. PyTorch's `eps` is 1e-12.
    #[track_caller]
    pub fn l2_normalize(self, eps: f64) -> Var<'g> {
        self.norm(Kind::Length { scale: 1.0 }, eps, None, None)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [&[usize]; 9] =
        [&[7, 5], &[1, 1], &[0, 4], &[3, 0], &[2, 3, 17], &[130, 33], &[301, 130], &[66_000, 2], &[2, 3_001]];
    let mut all = Vec::new();
    for s in shapes {
        let n = &s[s.len() - 1..];
        // Differences are noisy where two elements of a row may be close: the deviation is kept away from 0.
        all.push(Sample::new(format!("layer_norm {s:?}"), [s, n, n], |_, x| vec![x[0].layer_norm(x[1], x[2], 0.1)]));
        all.push(Sample::new(format!("rms_norm {s:?}"), [s, n], |_, x| vec![x[0].rms_norm(x[1])]).positive(0));
        all.push(Sample::new(format!("l2_normalize {s:?}"), [s], |_, x| vec![x[0].l2_normalize(1e-12)]).positive(0));
    }
    all.push(Sample::new("norms without gains", [&[19, 70], &[70]], |_, x| {
        let y = x[0].layer_norm(None, None, 1e-5);
        vec![y, x[0].layer_norm(None, x[1], 1e-5), x[0].rms_norm(None)]
    }));
    all.push(Sample::new("norms of short rows", [&[9, 20]], |g, x| {
        // Every row is shorter than eps, one is 0.
        let first = g.constant(crate::Tensor::zeros(&TensorType::f32([1, 20])));
        let rows = first.concat(&[x[0].slice(0, 1, 8)], 0);
        vec![rows.l2_normalize(1e3), rows.slice(0, 0, 1).rms_norm(None)]
    }));
    all.push(Sample::new("second derivative of norms", [&[5, 7], &[7]], |g, x| {
        let y = x[0].layer_norm(x[1], x[1], 0.1).tanh() + x[0].rms_norm(x[1]).tanh();
        let grads = g.grad(y.sum_all(), &[x[0], x[1]]);
        grads.iter().filter_map(|v| v.dense()).collect()
    }));
    all
}
