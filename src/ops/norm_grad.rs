//! Gradients of the row norms: one kernel for the rows, one with a fixed-order reduction for gain and offset.

use super::norm::Rule;
use super::softmax::row_grid;
use crate::error::{Refusal, Result};
use crate::graph::{Cotangent, Op, Vjp, cpu_twin};
use crate::kernel;
use crate::kernels::vector::{sum, sum_by};
use crate::kernels::{CpuCall, Kernel, Lower, par};
use crate::types::{Real, TensorType};
use encase::ShaderType;

/// Gradient to the rows.
pub static NORM_GRAD: Kernel = kernel!("rowwise/norm_grad");
/// Gradient to gain and offset, pieces of rows.
pub static NORM_PARAMS: Kernel = kernel!("rowwise/norm_params");

const WIDTH: usize = 64;
/// Rows that one invocation adds up.
const PIECE: usize = 64;

/// Inputs x, stats, g and gamma if there is one; with `h` the normalized row and `d = g gamma`:
/// `dx = factor (d - mean d - h share sum(d h))`, without the mean for lengths, without the last term for rows whose
/// length was clamped.
#[derive(Clone, Debug)]
pub(crate) struct NormGrad(pub Rule);

/// Inputs x, stats and g; `[sum g h, sum g]` over the rows, `[2, n]` (`[1, n]` without beta).
#[derive(Clone, Debug)]
pub(crate) struct NormParams(pub Rule);

#[derive(ShaderType)]
struct GradMeta {
    rows: u32,
    n: u32,
    eps: f32,
    share: f32,
}

#[derive(ShaderType)]
struct ParamsMeta {
    rows: u32,
    n: u32,
    pieces: u32,
    len: u32,
}

/// Mean to subtract and factor of a row.
#[inline(always)]
fn centre<T: Real>(rule: Rule, stats: &[T], row: usize) -> (T, T) {
    let mean = if rule.center() { stats[2 * row] } else { T::ZERO };
    (mean, stats[2 * row + 1])
}

impl NormGrad {
    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let rule = self.0;
        let (_, n) = call.inputs[0].shape.rows();
        let (x, stats, g) = (call.f(0), call.f(1), call.f(2));
        let gamma = if rule.gamma { call.f(3) } else { &[] };
        let eps = T::of(rule.eps);
        par::rows(
            call.out(0),
            n,
            4 * n,
            #[inline(always)]
            |r, dx| {
                let (x, g) = (&x[r * n..(r + 1) * n], &g[r * n..(r + 1) * n]);
                let (mean, factor) = centre(rule, stats, r);
                dx.copy_from_slice(g);
                dx.iter_mut().zip(gamma).for_each(|(d, &w)| *d *= w);
                let dot = sum_by(dx, x, |d, x| d * (x - mean) * factor);
                let offset = if rule.center() { sum(dx) / T::of(n as f64) } else { T::ZERO };
                let moves = rule.center() || stats[2 * r] > eps;
                let share = if moves { dot * T::of(rule.share(n)) } else { T::ZERO };
                for (d, &x) in dx.iter_mut().zip(x) {
                    *d = factor * (*d - offset - (x - mean) * factor * share);
                }
            },
        );
    }
}

impl Op for NormGrad {
    fn name(&self) -> &'static str {
        "norm_grad"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        Ok(vec![inputs[0].clone()])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.composed(|v| {
            let y = self.0.composed(v[0]);
            let y = v.get(3).map_or(y, |gamma| y * *gamma);
            cx.graph.vjp(&[(y, v[2])], &v[..1])[0].dense()
        })
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let rule = self.0;
        let (rows, n) = cx.inputs[0].shape().rows();
        let meta = GradMeta { rows: rows as u32, n: n as u32, eps: rule.eps as f32, share: rule.share(n) as f32 };
        let (lanes, groups) = row_grid(cx, rows, n);
        cx.dispatch(&NORM_GRAD)
            .constant("LANES", lanes as f64)
            .constant("CENTER", f64::from(u8::from(rule.center())))
            .constant("GAMMA", f64::from(u8::from(rule.gamma)))
            .input(0)
            .input(1)
            .input(2)
            .input(if rule.gamma { 3 } else { 0 })
            .output(0)
            .uniform(&meta)
            .workgroups(if n == 0 { 0 } else { groups })
    }
}

impl NormParams {
    fn sums(&self) -> usize {
        1 + usize::from(self.0.beta)
    }

    fn cpu<T: Real>(&self, call: &mut CpuCall<'_, T>) {
        let rule = self.0;
        let (rows, n) = call.inputs[0].shape.rows();
        let (x, stats, g) = (call.f(0), call.f(1), call.f(2));
        let width = self.sums() * n;
        let pieces = rows.div_ceil(PIECE);
        let mut partial = vec![T::ZERO; pieces * width];
        par::rows(
            &mut partial,
            width,
            PIECE * n,
            #[inline(always)]
            |p, y| {
                let (dot, total) = y.split_at_mut(n);
                for r in p * PIECE..((p + 1) * PIECE).min(rows) {
                    let (x, g) = (&x[r * n..(r + 1) * n], &g[r * n..(r + 1) * n]);
                    let (mean, factor) = centre(rule, stats, r);
                    for ((d, &x), &g) in dot.iter_mut().zip(x).zip(g) {
                        *d += g * (x - mean) * factor;
                    }
                    total.iter_mut().zip(g).for_each(|(t, &g)| *t += g);
                }
            },
        );
        let out = call.out(0);
        out.fill(T::ZERO);
        for piece in partial.chunks(width.max(1)) {
            out.iter_mut().zip(piece).for_each(|(o, &p)| *o += p);
        }
    }
}

impl Op for NormParams {
    fn name(&self) -> &'static str {
        "norm_params"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, Refusal> {
        let (_, n) = inputs[0].shape.rows();
        Ok(vec![TensorType::f32([self.sums(), n])])
    }

    fn vjp<'g>(&self, cx: &Vjp<'g>) -> Vec<Option<Cotangent<'g>>> {
        cx.composed(|v| {
            let (rows, n) = v[0].shape().rows();
            let g = v[2].reshape([rows, n]);
            let dot = (g * self.0.composed(v[0]).reshape([rows, n])).sum(0);
            Some(if self.0.beta { dot.concat(&[g.sum(0)], 0) } else { dot })
        })
    }

    cpu_twin!();

    fn lower(&self, cx: &mut Lower<'_>) -> Result<()> {
        let (rows, n) = cx.inputs[0].shape().rows();
        let pieces = rows.div_ceil(PIECE).max(1);
        let meta = ParamsMeta { rows: rows as u32, n: n as u32, pieces: pieces as u32, len: PIECE as u32 };
        let partial = (pieces > 1).then(|| cx.temp(self.sums() * pieces * n));
        let d = cx
            .dispatch(&NORM_PARAMS)
            .constant("CENTER", f64::from(u8::from(self.0.center())))
            .constant("BETA", f64::from(u8::from(self.0.beta)))
            .input(0)
            .input(1)
            .input(2);
        let d = match partial {
            Some(buffer) => d.write(buffer),
            None => d.output(0),
        };
        d.uniform(&meta).workgroups((pieces * n).div_ceil(WIDTH))?;
        match partial {
            Some(buffer) if n > 0 => super::reduce::sum_pieces(cx, buffer, [self.sums(), pieces, n]),
            _ => Ok(()),
        }
    }
}
