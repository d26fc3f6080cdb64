//! Cross entropy of logits with labels, row by row.
//!
//! ```
//! use wgrad::{Device, Feed, Graph, Tensor};
//! # fn main() -> wgrad::Result<()> {
//! let graph = Graph::new();
//! let logits = graph.constant(Tensor::f32([2, 2], vec![0.0, 0.0, 3.0, -1.0])?);
//! let labels = graph.constant(Tensor::u32([2], vec![1, 7])?);
//! // Labels may be padded with a number that no row counts.
//! let loss = logits.cross_entropy_mean(labels, Some(7));
//! let plan = Device::cpu().compile_blocking(&graph, &[("loss", loss)])?;
//! plan.run(&Feed::new())?;
//! assert!((plan.read_blocking("loss")?.floats()[0] - 2f32.ln()).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```

use super::logsumexp::top_and_sum;
use super::softmax::row_grid;
use crate::error::{Error, Refusal, Result};
use crate::graph::{Cotangent, Op, Var, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::exp_sum;
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{DType, Real, Tensor, TensorType};
use encase::ShaderType;

/// Losses and what the gradient needs.
pub static CROSS_ENTROPY: Kernel = kernel!("rowwise/cross_entropy");
/// Gradient to the logits, one element an invocation.
pub static CROSS_ENTROPY_GRAD: Kernel = kernel!("rowwise/cross_entropy_grad");

const WIDTH: usize = 64;

/// Which labels count: those below the number of classes, except `ignore` (`u32::MAX` where there is none).
#[derive(Clone, Copy, Debug)]
struct Labels {
    ignore: u32,
}

/// Inputs logits `[.., n]` and labels u32 `[..]`; outputs losses `[..]` and (max, sum of exponentials) `[.., 2]`.
#[derive(Clone, Debug)]
struct CrossEntropy(Labels);

/// Inputs logits, labels, the second output and the losses' cotangents; `(softmax - onehot) g`.
#[derive(Clone, Debug)]
struct CrossEntropyGrad(Labels);

#[derive(ShaderType)]
struct Meta {
    rows: u32,
    n: u32,
    ignore: u32,
}

impl Labels {
    fn class(&self, label: u32, n: usize) -> Option<usize> {
        (label != self.ignore && (label as usize) < n).then_some(label as usize)
    }

    /// Mask (u32 0/1) of the labels that count.
    #[track_caller]
    fn mask<'g>(&self, labels: Var<'g>, n: usize) -> Var<'g> {
        let below = labels.lt(u32::try_from(n).unwrap_or(u32::MAX));
        below.and(labels.ne(self.ignore))
    }

    fn meta(&self, rows: usize, n: usize) -> Meta {
        Meta { rows: rows as u32, n: n as u32, ignore: self.ignore }
    }
}

impl CrossEntropy {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (_, n) = call.inputs[0].shape.rows();
        let (x, labels) = (call.f(0), call.u(1));
        let (loss, stats) = (call.take(0), call.take(1));
        par::rows(
            stats,
            2,
            8 * n,
            #[inline(always)]
            |r, s| {
                (s[0], s[1]) = top_and_sum(&x[r * n..(r + 1) * n]);
            },
        );
        for (r, loss) in loss.iter_mut().enumerate() {
            *loss = match self.0.class(labels[r], n) {
                Some(c) => stats[2 * r + 1].ln() - (x[r * n + c] - stats[2 * r]),
                None => T::ZERO,
            };
        }
    }
}

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn outputs(&self) -> usize {
        2
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (x, labels) = (&inputs[0], &inputs[1]);
        x.require(DType::F32, "logits are floats")?;
        labels.require(DType::U32, "labels are class numbers")?;
        let Some((&n, rows)) = x.shape.split_last() else {
            return Refusal::shape("logits need at least one dimension");
        };
        if labels.shape[..] != *rows {
            return Refusal::shape(format!("logits {} need labels {rows:?}, got {}", x.shape, labels.shape));
        }
        if n == 0 {
            return Refusal::shape("needs at least one class");
        }
        let mut stats = labels.shape.clone();
        stats.0.push(2);
        Ok(vec![TensorType::f32(labels.shape.clone()), TensorType::f32(stats)])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        let Some(g) = cx.cotangent() else {
            return cx.none();
        };
        let others = [cx.inputs[1], cx.outputs[1], g];
        cx.dense([Some(cx.inputs[0].op(CrossEntropyGrad(self.0), &others)), None])
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, n) = cx.inputs[0].shape().rows();
        let (lanes, groups) = row_grid(cx, rows, n);
        cx.dispatch(&CROSS_ENTROPY)
            .constant("LANES", lanes as f64)
            .input(0)
            .input(1)
            .output(0)
            .output(1)
            .uniform(&self.0.meta(rows, n))
            .workgroups(groups)
    }
}

impl CrossEntropyGrad {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let (_, n) = call.inputs[0].shape.rows();
        let (x, labels, stats, g) = (call.f(0), call.u(1), call.f(2), call.f(3));
        par::rows(
            call.out(0),
            n,
            8 * n,
            #[inline(always)]
            |r, dx| {
                let Some(class) = self.0.class(labels[r], n) else {
                    return dx.fill(T::ZERO);
                };
                let scale = g[r] / stats[2 * r + 1];
                dx.copy_from_slice(&x[r * n..(r + 1) * n]);
                exp_sum(dx, stats[2 * r]);
                dx.iter_mut().for_each(|d| *d *= scale);
                dx[class] -= g[r];
            },
        );
    }
}

impl Op for CrossEntropyGrad {
    fn name(&self) -> &'static str {
        "cross_entropy_grad"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![inputs[0].clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.composed(|v| {
            let (x, labels, g) = (v[0], v[1], v[3]);
            let (axis, n) = (x.rank() - 1, x.dim(-1));
            let numbers = Tensor::u32([n], (0..n as u32).collect()).ok()?;
            let hot = labels.unsqueeze(axis).eq(cx.graph.constant(numbers));
            let g = self.0.mask(labels, n).select(g, 0.0).unsqueeze(axis);
            Some((x.softmax(axis) - hot.to_f32()) * g)
        })
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, n) = cx.inputs[0].shape().rows();
        cx.dispatch(&CROSS_ENTROPY_GRAD)
            .input(0)
            .input(1)
            .input(2)
            .input(3)
            .output(0)
            .uniform(&self.0.meta(rows, n))
            .workgroups((rows * n).div_ceil(WIDTH))
    }
}

impl<'g> Var<'g> {
    /// Labels that count for these logits. An `ignore_index` below 0 meets no label but `u32::MAX`, to which negative
    /// labels are mapped when they are loaded.
    #[track_caller]
    fn labels(self, ignore_index: Option<i64>) -> Labels {
        let ignore = match ignore_index {
            Some(i) if i > i64::from(u32::MAX) => {
                let message = format!("ignore_index {i} is no label: they end at {}", u32::MAX);
                self.graph.fail(Error::argument("cross_entropy", message));
                u32::MAX
            }
            Some(i) => u32::try_from(i).unwrap_or(u32::MAX),
            None => u32::MAX,
        };
        Labels { ignore }
    }

    /// `logsumexp(x) - x[label]` of logits `[.., n]` and labels u32 `[..]`, giving `[..]`.
    ///
    /// Rows do not count, and have loss and gradient 0, when their label is `ignore_index`, `u32::MAX`, or any other
    /// number that is no class (n or above): labels never read out of bounds.
    #[track_caller]
    pub fn cross_entropy(self, labels: Var<'g>, ignore_index: Option<i64>) -> Var<'g> {
        let rule = self.labels(ignore_index);
        self.op(CrossEntropy(rule), &[labels])
    }

    /// Number of rows that count in [`cross_entropy`](Self::cross_entropy), a float scalar `[]`.
    #[track_caller]
    pub fn cross_entropy_count(self, labels: Var<'g>, ignore_index: Option<i64>) -> Var<'g> {
        let mask = self.labels(ignore_index).mask(labels, self.dim(-1));
        mask.to_f32().sum_all()
    }

    /// Mean of [`cross_entropy`](Self::cross_entropy) over the rows that count, a scalar `[]`; 0 if none does.
    #[track_caller]
    pub fn cross_entropy_mean(self, labels: Var<'g>, ignore_index: Option<i64>) -> Var<'g> {
        let count = self.cross_entropy_count(labels, ignore_index);
        self.cross_entropy(labels, ignore_index).sum_all() / count.maximum(1.0)
    }
}

/// Samples for the generic checks.
pub fn samples() -> Vec<crate::ops::samples::Sample> {
    use crate::ops::samples::Sample;
    let shapes: [(&[usize], u32); 6] =
        [(&[7, 5], 5), (&[2, 3, 17], 25), (&[1, 1], 1), (&[0, 4], 4), (&[66_000, 2], 3), (&[3, 3_001], 3_001)];
    let mut all: Vec<Sample> = shapes
        .into_iter()
        .map(|(s, bound)| {
            Sample::new(format!("cross_entropy {s:?}"), [s], |_, x| {
                vec![
                    x[0].cross_entropy(x[1], Some(2)),
                    x[0].cross_entropy_mean(x[1], None),
                    x[0].cross_entropy_count(x[1], Some(-1)),
                ]
            })
            .below(&s[..s.len() - 1], bound)
        })
        .collect();
    all.push(Sample::new("cross_entropy without labels", [&[6, 5]], |g, x| {
        let none = g.full_u32([6], u32::MAX);
        let two = g.full_u32([6], 2);
        vec![
            x[0].cross_entropy_mean(none, None),
            x[0].cross_entropy_mean(two, Some(2)),
            x[0].cross_entropy(none, Some(-1)),
        ]
    }));
    all.push(
        Sample::new("cross_entropy of large logits", [&[9, 40]], |_, x| vec![(x[0] * 400.0).cross_entropy(x[1], None)])
            .below(&[9], 40)
            .no_gradient(),
    );
    all.push(
        Sample::new("second derivative of cross_entropy", [&[4, 6]], |g, x| {
            let loss = x[0].cross_entropy(x[1], Some(1)).square().sum_all();
            g.grad(loss, &[x[0]]).iter().filter_map(|v| v.dense()).collect()
        })
        .below(&[4], 7),
    );
    all
}
