//! Whole training steps: loss, gradients, optimizer.

use crate::layers::{infini_config, product_key_config, recurrent_config};
use crate::work::{Case, Make, Training, graph, rng, uniform};
use rand::RngExt;
use wgrad::graph::{Graph, Mode};
use wgrad::models::conditional::{BlockConfig, ConditionalRoutedTransformerBlock};
use wgrad::models::infini::{InfiniTransformer, SegmentLoss};
use wgrad::models::product_key::{Lookup, ProductKeyMemory, VALUES, values_group};
use wgrad::models::recurrent::{BlockRecurrentTransformer, Carried};
use wgrad::nn::{Init, Linear, ParamVars, Params};
use wgrad::train::{Adam, Trainer, TrainerBuilder};
use wgrad::{Device, Result, Tensor, TensorType, Var};

pub fn cases() -> Vec<Case> {
    vec![
        mlp(256, 256, 1024),
        adam(1 << 22),
        product_key(1024, false),
        product_key(1024, true),
        colt5_block(4096, 256),
        infini(512),
        recurrent(1024).large(),
    ]
}

fn floats(shape: &[usize]) -> Result<Tensor> {
    Tensor::f32(shape, uniform(&mut rng(), shape.iter().product()))
}

fn tokens(n: usize, below: usize) -> Result<Tensor> {
    let mut rng = rng();
    Tensor::u32([1, n], (0..n).map(|_| rng.random_range(0..below as u32)).collect())
}

fn trained(
    device: &Device,
    params: Params,
    set: impl FnOnce(TrainerBuilder) -> TrainerBuilder,
    batch: Vec<(&'static str, Tensor)>,
    loss: impl for<'g> FnOnce(&'g Graph, &ParamVars<'g>) -> Var<'g>,
) -> Result<Box<dyn crate::work::Work>> {
    let builder = set(Trainer::builder(device, params, Adam::default().lr(1e-4)));
    Ok(Box::new(Training { trainer: builder.compile_blocking(loss)?, batch }))
}

/// Two layers; mean square from a target.
fn mlp(batch: usize, dim: usize, inner: usize) -> Case {
    let make: Make = Box::new(move |device| {
        let mut params = Params::new(1);
        let up = Linear::new(&mut params, "up", dim, inner, true);
        let down = Linear::new(&mut params, "down", inner, dim, true);
        let data = vec![("x", floats(&[batch, dim])?), ("y", floats(&[batch, dim])?)];
        trained(
            device,
            params,
            |b| b,
            data,
            move |g, p| {
                let [x, y] = ["x", "y"].map(|name| g.input(name, TensorType::f32([batch, dim])));
                (down.forward(p, up.forward(p, x).relu()) - y).square().mean_all()
            },
        )
    });
    let weights = 2 * dim * inner;
    // Reads weights twice and writes their gradients; Adam reads four and writes three.
    Case::new("mlp_step", &[batch, dim, inner], make)
        .counts(10 * weights + 8 * batch * (dim + inner), 6 * batch * weights)
}

/// The same step written out, with Adam from elementwise operations: what a page builds with the npm package.
pub fn mlp_adam(batch: usize, dim: usize, inner: usize) -> Case {
    let make = graph(move |s| {
        let [x, y] = [0; 2].map(|_| s.floats([batch, dim]));
        let parameter = |shape: &[usize]| [s.floats(shape), s.zeros(shape), s.zeros(shape)];
        let all = [&[dim, inner][..], &[inner], &[inner, dim], &[dim]].map(parameter);
        let [[w1, ..], [b1, ..], [w2, ..], [b2, ..]] = all;
        let loss = ((x.matmul(w1) + b1).relu().matmul(w2) + b2 - y).square().mean_all();
        let grads = s.graph.grad(loss, &all.map(|[w, ..]| w));
        for ([w, m, v], grad) in all.into_iter().zip(&grads) {
            let Some(grad) = grad.dense() else { continue };
            let first = m * 0.9 + grad * 0.1;
            let second = v * 0.999 + grad.square() * 0.001;
            s.graph.assign(m, first);
            s.graph.assign(v, second);
            s.graph.assign(w, w - first / (second.sqrt() + 1e-8) * 1e-4);
        }
        vec![loss]
    });
    Case::new("mlp_adam", &[batch, dim, inner], make)
}

/// The optimizer alone: the gradient is an input.
fn adam(n: usize) -> Case {
    let make: Make = Box::new(move |device| {
        let mut params = Params::new(1);
        params.add("w", [n], Init::Normal { std: 1.0 });
        trained(device, params, |b| b, Vec::new(), |_, p| (p.get("w").square() * 0.5).sum_all())
    });
    Case::new("adam_step", &[n], make).counts(7 * n, 12 * n)
}

/// With the table's gradient dense, or only the rows that were read updated.
fn product_key(n: usize, rows: bool) -> Case {
    let make: Make = Box::new(move |device| {
        let mut params = Params::new(1);
        let memory = ProductKeyMemory::new(&mut params, "", product_key_config(false))?;
        let data = vec![("x", floats(&[1, n, 512])?)];
        let set = |b: TrainerBuilder| if rows { b.group(VALUES, values_group(1e-4, 1e-2)) } else { b };
        trained(device, params, set, data, move |g, p| {
            let x = g.input("x", TensorType::f32([1, n, 512]));
            memory.forward(p, x, &Lookup::new(Mode::Train, 0)).square().mean_all()
        })
    });
    Case::new(if rows { "product_key_rows_step" } else { "product_key_step" }, &[n, 512], make)
}

fn colt5_block(n: usize, k: usize) -> Case {
    let make: Make = Box::new(move |device| {
        let mut params = Params::new(1);
        let block =
            ConditionalRoutedTransformerBlock::new(&mut params, "", BlockConfig::new(512, k, k, k).reference())?;
        let data = vec![("x", floats(&[1, n, 512])?)];
        trained(
            device,
            params,
            |b| b,
            data,
            move |g, p| {
                let x = g.input("x", TensorType::f32([1, n, 512]));
                block.forward(p, x, &block.route()).square().mean_all()
            },
        )
    });
    Case::new("colt5_block_step", &[n, 512, k], make)
}

/// Two segments of a text, with gradients through the memories.
fn infini(n: usize) -> Case {
    let make: Make = Box::new(move |device| {
        let model = InfiniTransformer::new(infini_config())?;
        let ids = tokens(n + 1, model.config().num_tokens)?;
        let options = SegmentLoss { segment_length: n / 2, ..SegmentLoss::default() };
        trained(
            device,
            model.init(1),
            |b| b,
            vec![("ids", ids)],
            move |g, p| model.segment_loss(p, g.input("ids", TensorType::u32([1, n + 1])), options, Mode::Train),
        )
    });
    Case::new("infini_step", &[n, 512, 8], make)
}

fn recurrent(n: usize) -> Case {
    let make: Make = Box::new(move |device| {
        let model = BlockRecurrentTransformer::new(recurrent_config())?;
        let ids = tokens(n + 1, model.config().num_tokens)?;
        trained(
            device,
            model.init(1),
            |b| b,
            vec![("ids", ids)],
            move |g, p| model.loss(p, g.input("ids", TensorType::u32([1, n + 1])), &Carried::default()).0,
        )
    });
    Case::new("recurrent_step", &[n, 512, 6], make)
}
