//! candle on the CPU.

use crate::{Draw, Library, Run};
use anyhow::Result;
use candle_core::{D, Device, Tensor, Var};
use candle_nn::ops;

pub struct Candle;

fn floats(draw: &mut Draw, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(draw.floats(shape.iter().product()), shape, &Device::Cpu)?)
}

fn indices(draw: &mut Draw, n: usize, below: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec(draw.below(n, below), n, &Device::Cpu)?)
}

fn run(mut f: impl FnMut() -> candle_core::Result<Tensor> + 'static) -> Run {
    Box::new(move || {
        std::hint::black_box(f()?);
        Ok(())
    })
}

/// `f` of a table and perhaps its gradient.
fn of_table(
    draw: &mut Draw,
    shape: [usize; 2],
    grad: bool,
    f: impl Fn(&Tensor) -> candle_core::Result<Tensor> + 'static,
) -> Result<Run> {
    let table = floats(draw, &shape)?;
    if !grad {
        return Ok(run(move || f(&table)));
    }
    let table = Var::from_tensor(&table)?;
    let cotangent = f(table.as_tensor())?.ones_like()?;
    Ok(run(move || {
        let grads = f(table.as_tensor())?.mul(&cotangent)?.sum_all()?.backward()?;
        grads.get(&table).cloned().ok_or_else(|| candle_core::Error::Msg("no gradient".into()))
    }))
}

fn descend(scores: &Tensor, k: usize, iterations: usize) -> candle_core::Result<Tensor> {
    let eps = 0.1;
    let mut b = scores.neg()?;
    let mut shifted = scores.clone();
    for _ in 0..iterations {
        let sum = ((scores + &b)? / eps)?.log_sum_exp(D::Minus1)?.unsqueeze(1)?;
        let a = sum.affine(-eps, eps * (k as f64).ln())?;
        shifted = scores.broadcast_add(&a)?;
        b = shifted.relu()?.neg()?;
    }
    ((shifted + b)? / eps)?.exp()
}

impl Library for Candle {
    fn about(&self) -> String {
        "candle 0.11.1, CPU".into()
    }

    fn prepare(&self, op: &str, dims: &[usize]) -> Result<Option<Run>> {
        let draw = &mut Draw::new();
        let grad = op.ends_with("_grad");
        Ok(Some(match (op.trim_end_matches("_grad"), dims) {
            ("matmul", &[m, k, n]) => {
                let (a, b) = (floats(draw, &[m, k])?, floats(draw, &[k, n])?);
                run(move || a.matmul(&b))
            }
            ("batched_matmul", &[b, m, k, n]) => {
                let (x, y) = (floats(draw, &[b, m, k])?, floats(draw, &[b, k, n])?);
                run(move || x.matmul(&y))
            }
            // It has no top-k: sorts, and takes the first.
            ("top_k", &[rows, n, k]) => {
                let x = floats(draw, &[rows, n])?;
                run(move || x.sort_last_dim(false)?.0.narrow(1, 0, k)?.contiguous())
            }
            ("softmax", &[rows, n]) => {
                let x = floats(draw, &[rows, n])?;
                run(move || ops::softmax_last_dim(&x))
            }
            ("layer_norm", &[rows, n]) => {
                let (x, gamma, beta) = (floats(draw, &[rows, n])?, floats(draw, &[n])?, floats(draw, &[n])?);
                run(move || ops::layer_norm(&x, &gamma, &beta, 1e-5))
            }
            ("gather", &[rows, width, hits]) => {
                let at = indices(draw, hits, rows)?;
                of_table(draw, [rows, width], grad, move |table| table.index_select(&at, 0))?
            }
            ("weighted_gather", &[rows, width, sums, per]) => {
                let (at, weights) = (indices(draw, sums * per, rows)?, floats(draw, &[sums, per, 1])?);
                of_table(draw, [rows, width], grad, move |table| {
                    let picked = table.index_select(&at, 0)?.reshape((sums, per, width))?;
                    picked.broadcast_mul(&weights)?.sum(1)
                })?
            }
            ("elementwise_chain", &[n]) => {
                let x = floats(draw, &[n])?;
                run(move || x.affine(0.9, 0.1)?.relu()?.exp()?.mul(&x))
            }
            ("soft_top_k" | "soft_top_k_exact", &[rows, n, k, t]) if !grad => {
                let scores = floats(draw, &[rows, n])?;
                run(move || descend(&scores, k, t))
            }
            _ => return Ok(None),
        }))
    }
}
