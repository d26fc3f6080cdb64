//! Checkpoints from PyTorch and back: loads one of each of the four originals, compares its outputs with PyTorch's, trains it
//! a little, and saves it for PyTorch to load again. `originals.py` beside this file writes and reads the other side:
//!
//! ```text
//! pip install -r benches/peers/requirements.txt
//! python examples/pytorch/originals.py export target/pytorch
//! cargo run --release --example pytorch -- target/pytorch
//! python examples/pytorch/originals.py check target/pytorch
//! ```

use anyhow::{Result, bail};
use clap::Parser;
use std::path::{Path, PathBuf};
use wgrad::models::conditional::{BlockConfig, ConditionalRoutedTransformerBlock};
use wgrad::models::product_key::{PkmTransformer, PkmTransformerConfig, ProductKeyConfig};
use wgrad::models::recurrent::Carried;
use wgrad::models::{BlockRecurrentConfig, BlockRecurrentTransformer, InfiniConfig, InfiniTransformer};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{Adam, Checkpoint, LoadOptions, Trainer};
use wgrad::{Device, Feed, GpuOptions, Graph, Mode, Store, Tensor, Var};

/// PyTorch's checkpoints, there and back.
#[derive(Parser)]
struct Args {
    /// The folder that originals.py wrote
    folder: PathBuf,
    /// "cpu", or part of an adapter's name; a hardware GPU if there is one, else the CPU executor
    #[arg(long)]
    device: Option<String>,
    /// Steps of training
    #[arg(long, default_value_t = 20)]
    steps: u32,
}

/// Largest difference of outputs, relative to the largest of them.
const TOLERANCE: f32 = 2e-4;

type Run = dyn for<'g> Fn(&ParamVars<'g>, Var<'g>) -> Var<'g>;

/// One of the originals: its parameters, and how outputs come from inputs. Options are those of originals.py.
struct Original {
    name: &'static str,
    params: Params,
    run: Box<Run>,
    /// Whether it reads tokens and gives logits; else features.
    tokens: bool,
}

fn originals() -> Result<Vec<Original>> {
    let infini = InfiniTransformer::new(InfiniConfig { heads: 2, dim_head: 32, ..InfiniConfig::new(256, 64, 2) })?;
    let memory = ProductKeyConfig { heads: 2, num_keys: 16, topk: 8, dim_head: 16, ..ProductKeyConfig::new(64) };
    let pkm = PkmTransformerConfig {
        heads: 2,
        dim_head: 32,
        pkm_layers: vec![2],
        ..PkmTransformerConfig::new(256, 2, 32, memory)
    };
    let pkm = PkmTransformer::new(pkm)?;
    let recurrent = BlockRecurrentTransformer::new(BlockRecurrentConfig {
        heads: 2,
        dim_head: 32,
        block_width: 16,
        max_seq_len: 32,
        num_state_vectors: Some(16),
        ..BlockRecurrentConfig::new(256, 64, 2)
    })?;
    let mut config = BlockConfig::new(64, 32, 32, 32).reference();
    let a = &mut config.attention;
    (a.light_dim_head, a.light_heads, a.light_window_size) = (32, 2, 8);
    (a.heavy_dim_head, a.heavy_heads) = (32, 2);
    let mut colt5_params = Params::new(0);
    let colt5 = ConditionalRoutedTransformerBlock::new(&mut colt5_params, "", config)?;
    Ok(vec![
        Original {
            name: "infini",
            params: infini.init(0),
            run: Box::new(move |p, ids| infini.forward(p, ids, None, false, Mode::Eval, 0).0),
            tokens: true,
        },
        Original {
            name: "pkm",
            params: pkm.init(0),
            run: Box::new(move |p, ids| pkm.forward(p, ids, Mode::Eval)),
            tokens: true,
        },
        Original {
            name: "recurrent",
            params: recurrent.init(0),
            run: Box::new(move |p, ids| recurrent.forward(p, ids, &Carried::default()).0),
            tokens: true,
        },
        Original {
            name: "colt5",
            params: colt5_params,
            run: Box::new(move |p, x| colt5.forward(p, x, &colt5.route())),
            tokens: false,
        },
    ])
}

impl Original {
    /// The inputs; PyTorch's tokens are 64-bit integers.
    fn given(&self, io: &Checkpoint) -> Result<Tensor> {
        let x = io.tensor("x")?;
        if !self.tokens {
            return Ok(x);
        }
        Ok(Tensor::u32(x.shape().clone(), x.floats().iter().map(|t| *t as u32).collect())?)
    }

    fn outputs(&self, device: &Device, store: &Store, params: &Params, x: &Tensor) -> Result<Tensor> {
        let graph = Graph::new();
        let out = (self.run)(&params.vars(&graph), graph.input("x", x.ty()));
        let plan = device.compile_blocking(&graph, &[("out", out)])?;
        plan.run(&Feed::new().store(store).input("x", x))?;
        Ok(plan.read_blocking("out")?)
    }

    /// Cross entropy of the next token, or the mean square of features.
    fn loss<'g>(&self, p: &ParamVars<'g>, x: Var<'g>) -> Var<'g> {
        let out = (self.run)(p, x);
        if !self.tokens {
            return out.square().mean_all();
        }
        let [batch, length, vocabulary] = [0, 1, 2].map(|axis| out.dim(axis));
        let n = length.saturating_sub(1);
        let labels = x.slice(1, 1, n).reshape([batch * n]);
        out.slice(1, 0, n).reshape([batch * n, vocabulary]).cross_entropy_mean(labels, None)
    }

    fn there_and_back(mut self, device: &Device, folder: &Path, steps: u32) -> Result<()> {
        let place = |end: &str| folder.join(format!("{}.{end}", self.name));
        let io = Checkpoint::open(place("io.safetensors"))?;
        let x = self.given(&io)?;
        // Frequencies of positions are computed here; some originals store them.
        let options = LoadOptions { allow_extra: true, ..Default::default() };
        let loaded = self.params.load(place("safetensors"), &options)?;
        if let Some(name) = loaded.extra.iter().find(|name| !name.ends_with("freqs") && !name.ends_with("pos_ids")) {
            bail!("{}: the file has {name}, which the model lacks", self.name);
        }
        let store = self.params.store(device)?;
        let out = self.outputs(device, &store, &self.params, &x)?;
        let off = difference(&out, &io.tensor("out")?);
        let mut trainer = Trainer::builder(device, self.params.clone(), Adam::default().lr(1e-3))
            .compile_blocking(|graph, p| self.loss(p, graph.input("x", x.ty())))?;
        let mut losses = Vec::new();
        for _ in 0..steps {
            trainer.step(&[("x", &x)])?;
            losses.push(trainer.loss_blocking()?);
        }
        let tuned = pollster::block_on(trainer.read_params())?;
        tuned.save(place("tuned.safetensors"))?;
        let out = self.outputs(device, trainer.store(), trainer.params(), &x)?;
        let mut file = Params::new(0);
        file.add("out", out.shape().clone(), wgrad::nn::Init::Values(out.floats().to_vec()));
        file.save(place("tuned.io.safetensors"))?;
        let (first, last) = (losses.first().copied().unwrap_or(0.0), losses.last().copied().unwrap_or(0.0));
        println!("{}: outputs within {off:.1e} of PyTorch's; loss {first:.3} to {last:.3} in {steps} steps", self.name);
        if off > TOLERANCE {
            bail!("{}: more than {TOLERANCE:.0e} apart", self.name);
        }
        Ok(())
    }
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    let top = b.floats().iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    let pairs = a.floats().iter().zip(b.floats());
    if a.shape() == b.shape() { pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / top } else { f32::INFINITY }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let device = match args.device.as_deref() {
        None => Device::auto_blocking()?,
        Some("cpu") => Device::cpu(),
        Some(name) => Device::gpu_blocking(GpuOptions { adapter: Some(name.to_owned()), ..Default::default() })?,
    };
    println!("{device}");
    for original in originals()? {
        original.there_and_back(&device, &args.folder, args.steps)?;
    }
    Ok(())
}
