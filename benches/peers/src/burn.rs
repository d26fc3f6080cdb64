//! burn with its wgpu backend: fusion and autotuning on, as it comes.

use crate::{Draw, Library, Run};
use anyhow::{Result, anyhow};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::{relu, softmax};
use burn::tensor::module::{attention, layer_norm};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, DeviceKind, Int, Tensor, TensorData};
use std::any::Any;

pub struct Burn {
    device: Device,
}

/// What a run made stays until the device has done it.
type Kept = Box<dyn Any>;

impl Burn {
    pub fn new() -> Burn {
        Burn { device: Device::wgpu(DeviceKind::DefaultDevice) }
    }

    fn floats<const D: usize>(&self, draw: &mut Draw, shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(draw.floats(shape.iter().product()), shape);
        Tensor::from_data(data, &self.device)
    }

    /// A leaf whose gradient is asked for.
    fn leaf<const D: usize>(&self, draw: &mut Draw, shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(draw.floats(shape.iter().product()), shape);
        Tensor::from_data(data, &self.device.clone().autodiff()).require_grad()
    }

    fn indices(&self, draw: &mut Draw, n: usize, below: usize, grad: bool) -> Tensor<1, Int> {
        let all: Vec<i32> = draw.below(n, below).into_iter().map(|i| i as i32).collect();
        let device = if grad { self.device.clone().autodiff() } else { self.device.clone() };
        Tensor::from_data(TensorData::new(all, [n]), &device)
    }

    /// A constant beside leaves.
    fn beside<const D: usize>(&self, draw: &mut Draw, shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(draw.floats(shape.iter().product()), shape);
        Tensor::from_data(data, &self.device.clone().autodiff())
    }

    fn waited(&self, mut f: impl FnMut() -> Kept + 'static) -> Run {
        let device = self.device.clone();
        Box::new(move || {
            let kept = f();
            device.sync().map_err(|e| anyhow!("{e:?}"))?;
            drop(kept);
            Ok(())
        })
    }

    fn gather(&self, draw: &mut Draw, [rows, width, hits]: [usize; 3], grad: bool) -> Run {
        let hits_at = self.indices(draw, hits, rows, grad);
        if !grad {
            let table = self.floats(draw, [rows, width]);
            return self.waited(move || Box::new(table.clone().select(0, hits_at.clone())));
        }
        let (table, cotangent) = (self.leaf(draw, [rows, width]), self.beside(draw, [hits, width]));
        self.waited(move || {
            let y = table.clone().select(0, hits_at.clone());
            let grads = (y * cotangent.clone()).sum().backward();
            Box::new(table.grad(&grads))
        })
    }

    fn weighted_gather(&self, draw: &mut Draw, [rows, width, sums, per]: [usize; 4], grad: bool) -> Run {
        let hits = self.indices(draw, sums * per, rows, grad);
        let bag = move |table: Tensor<2>, weights: Tensor<2>| {
            let picked: Tensor<3> = table.select(0, hits.clone()).reshape([sums, per, width]);
            let summed = (picked * weights.reshape([sums, per, 1])).sum_dim(1);
            summed.reshape::<2, _>([sums, width])
        };
        if !grad {
            let (table, weights) = (self.floats(draw, [rows, width]), self.floats(draw, [sums, per]));
            return self.waited(move || Box::new(bag(table.clone(), weights.clone())));
        }
        let (table, weights) = (self.leaf(draw, [rows, width]), self.leaf(draw, [sums, per]));
        let cotangent = self.beside(draw, [sums, width]);
        self.waited(move || {
            let grads = (bag(table.clone(), weights.clone()) * cotangent.clone()).sum().backward();
            Box::new((table.grad(&grads), weights.grad(&grads)))
        })
    }

    fn attention(&self, draw: &mut Draw, shape: [usize; 4], grad: bool) -> Run {
        let options = AttentionModuleOptions::default;
        if !grad {
            let [q, k, v] = [0; 3].map(|_| self.floats(draw, shape));
            return self.waited(move || Box::new(attention(q.clone(), k.clone(), v.clone(), None, None, options())));
        }
        let [q, k, v] = [0; 3].map(|_| self.leaf(draw, shape));
        let cotangent = self.beside(draw, shape);
        self.waited(move || {
            let y = attention(q.clone(), k.clone(), v.clone(), None, None, options());
            let grads = (y * cotangent.clone()).sum().backward();
            Box::new([q.grad(&grads), k.grad(&grads), v.grad(&grads)])
        })
    }

    fn soft_top_k(&self, draw: &mut Draw, [rows, n, k, iterations]: [usize; 4], grad: bool) -> Run {
        if !grad {
            let scores = self.floats(draw, [rows, n]);
            return self.waited(move || Box::new(descend(scores.clone(), k, iterations)));
        }
        let (scores, cotangent) = (self.leaf(draw, [rows, n]), self.beside(draw, [rows, n]));
        self.waited(move || {
            let grads = (descend(scores.clone(), k, iterations) * cotangent.clone()).sum().backward();
            Box::new(scores.grad(&grads))
        })
    }

    fn sinkhorn(&self, draw: &mut Draw, [b, n, m, iterations]: [usize; 4], grad: bool) -> Run {
        let balance = move |mut scores: Tensor<3>| {
            for _ in 0..iterations {
                scores = scores.clone() - logsumexp(scores, 2);
                scores = scores.clone() - logsumexp(scores, 1);
            }
            scores.exp()
        };
        if !grad {
            let scores = self.floats(draw, [b, n, m]);
            return self.waited(move || Box::new(balance(scores.clone())));
        }
        let (scores, cotangent) = (self.leaf(draw, [b, n, m]), self.beside(draw, [b, n, m]));
        self.waited(move || {
            let grads = (balance(scores.clone()) * cotangent.clone()).sum().backward();
            Box::new(scores.grad(&grads))
        })
    }

    fn mlp_step(&self, draw: &mut Draw, [batch, dim, inner]: [usize; 3]) -> Run {
        let [x, y] = [0; 2].map(|_| self.beside(draw, [batch, dim]));
        let mut model = Some(Mlp::new(&self.device.clone().autodiff(), dim, inner));
        let mut adam = AdamConfig::new().init();
        self.waited(move || {
            let Some(mlp) = model.take() else { return Box::new(()) };
            let off = mlp.forward(x.clone()) - y.clone();
            let loss = (off.clone() * off).mean();
            let grads = GradientsParams::from_grads(loss.backward(), &mlp);
            model = Some(adam.step(1e-4, mlp, grads));
            Box::new(loss)
        })
    }
}

#[derive(Module, Debug)]
struct Mlp {
    up: Linear,
    down: Linear,
}

impl Mlp {
    fn new(device: &Device, dim: usize, inner: usize) -> Mlp {
        let layer = |from, to| LinearConfig::new(from, to).init(device);
        Mlp { up: layer(dim, inner), down: layer(inner, dim) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(relu(self.up.forward(x)))
    }
}

fn logsumexp<const D: usize>(x: Tensor<D>, dim: usize) -> Tensor<D> {
    let most = x.clone().max_dim(dim);
    (x - most.clone()).exp().sum_dim(dim).log() + most
}

/// Coordinate descent (Wright et al. 2023) as a user of burn would write it.
fn descend(scores: Tensor<2>, k: usize, iterations: usize) -> Tensor<2> {
    let eps = 0.1;
    let mut b = scores.clone().neg();
    let mut a = None;
    for _ in 0..iterations {
        let sum = logsumexp((scores.clone() + b) / eps, 1);
        let dual = (sum.neg() + (k as f64).ln()) * eps;
        b = relu(scores.clone() + dual.clone()).neg();
        a = Some(dual);
    }
    let shifted = match a {
        Some(a) => scores + a,
        None => scores,
    };
    ((shifted + b) / eps).exp()
}

impl Library for Burn {
    fn about(&self) -> String {
        format!("burn 0.22.1, wgpu with fusion and autotuning, {:?}", self.device)
    }

    fn prepare(&self, op: &str, dims: &[usize]) -> Result<Option<Run>> {
        let draw = &mut Draw::new();
        let grad = op.ends_with("_grad");
        Ok(Some(match (op.trim_end_matches("_grad"), dims) {
            ("matmul", &[m, k, n]) => {
                let (a, b) = (self.floats(draw, [m, k]), self.floats(draw, [k, n]));
                self.waited(move || Box::new(a.clone().matmul(b.clone())))
            }
            ("batched_matmul", &[b, m, k, n]) => {
                let (x, y) = (self.floats(draw, [b, m, k]), self.floats(draw, [b, k, n]));
                self.waited(move || Box::new(x.clone().matmul(y.clone())))
            }
            ("top_k", &[rows, n, k]) => {
                let x = self.floats(draw, [rows, n]);
                self.waited(move || Box::new(x.clone().topk_with_indices(k, 1)))
            }
            ("softmax", &[rows, n]) => {
                let x = self.floats(draw, [rows, n]);
                self.waited(move || Box::new(softmax(x.clone(), 1)))
            }
            ("layer_norm", &[rows, n]) => {
                let (x, gamma, beta) = (self.floats(draw, [rows, n]), self.floats(draw, [n]), self.floats(draw, [n]));
                self.waited(move || Box::new(layer_norm(x.clone(), gamma.clone(), Some(beta.clone()), 1e-5)))
            }
            ("gather", &[rows, width, hits]) => self.gather(draw, [rows, width, hits], grad),
            ("weighted_gather", &[rows, width, sums, per]) => {
                self.weighted_gather(draw, [rows, width, sums, per], grad)
            }
            ("elementwise_chain", &[n]) => {
                let x = self.floats(draw, [n]);
                self.waited(move || Box::new(relu(x.clone() * 0.9 + 0.1).exp() * x.clone()))
            }
            ("attention", &[b, h, n, d]) => self.attention(draw, [b, h, n, d], grad),
            ("soft_top_k" | "soft_top_k_exact", &[rows, n, k, t]) => self.soft_top_k(draw, [rows, n, k, t], grad),
            ("sinkhorn", &[b, n, m, t]) => self.sinkhorn(draw, [b, n, m, t], grad),
            ("mlp_step", &[batch, dim, inner]) => self.mlp_step(draw, [batch, dim, inner]),
            _ => return Ok(None),
        }))
    }
}
