//! There and back: what is compared, trained and saved.

use crate::originals::Original;
use anyhow::{Result, bail};
use std::path::Path;
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{Adam, Checkpoint, LoadOptions, Trainer};
use wgrad::{Device, Feed, Graph, Store, Tensor, Var};

/// Largest difference of outputs, relative to the largest of them.
const TOLERANCE: f32 = 2e-4;

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

    pub fn there_and_back(mut self, device: &Device, folder: &Path, steps: u32) -> Result<()> {
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
