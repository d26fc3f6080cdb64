//! The training run of the web page: a byte-level language model with a memory, small enough for any machine. The same run
//! on a native machine is the page's reference.

mod model;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::models::infini::{InfiniStream, InfiniTransformer, Sampling, StreamPlans};
use crate::train::Trainer;
use crate::types::Tensor;
use model::{BATCH, LENGTH, SEGMENT};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// What the model reads unless it is given something else.
const TEXT: &[u8] = include_bytes!("text.txt");

/// A model in training on one device.
pub struct Demo {
    device: Device,
    model: InfiniTransformer,
    trainer: Trainer,
    /// Compiled when the first sample is wanted.
    stream: Option<Arc<StreamPlans>>,
    text: Vec<u8>,
}

impl Demo {
    /// A fresh model, drawn from `seed`, and its compiled training step. It learns `text`, or a page of its own.
    pub async fn new(device: &Device, seed: u64, text: Option<Vec<u8>>) -> Result<Demo> {
        let text = text.unwrap_or_else(|| TEXT.to_vec());
        if text.len() < LENGTH {
            let message = format!("has {} bytes; at least {LENGTH} are needed", text.len());
            return Err(Error::argument("text", message));
        }
        let (model, trainer) = model::create(device, seed).await?;
        Ok(Demo { device: device.clone(), model, trainer, stream: None, text })
    }

    /// Queues one training step.
    pub fn step(&mut self) -> Result<()> {
        let ids = self.pieces()?;
        self.trainer.step(&[("ids", &ids)])
    }

    /// Mean cross-entropy of the last step, in nats a byte. Waits for it.
    pub async fn loss(&self) -> Result<f32> {
        self.trainer.loss().await
    }

    /// What the model writes after `prompt`: `count` bytes.
    pub async fn sample(&mut self, prompt: &[u8], count: usize) -> Result<Vec<u8>> {
        let plans = match &self.stream {
            Some(plans) => plans.clone(),
            None => self.model.stream_plans(&self.device, self.trainer.params(), 1, SEGMENT).await?,
        };
        self.stream = Some(plans.clone());
        let mut stream = InfiniStream::new(&plans)?;
        let prompt: Vec<u32> = prompt.iter().map(|b| u32::from(*b)).collect();
        stream.feed(self.trainer.store(), &[&prompt])?;
        let sampling = Sampling { temperature: 0.7, top_p: Some(0.9), ..Default::default() };
        let tokens = stream.generate(self.trainer.store(), count, sampling, self.trainer.seed()).await?;
        Ok(tokens.concat().iter().map(|token| *token as u8).collect())
    }

    /// Bytes that one step predicts.
    pub fn tokens_per_step(&self) -> usize {
        BATCH * (LENGTH - 1)
    }

    /// Floats that are learned.
    pub fn parameters(&self) -> usize {
        self.trainer.params().numel()
    }

    /// Pieces of the text, from places drawn by seed and step alone: a run can be repeated on any device.
    fn pieces(&self) -> Result<Tensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.trainer.seed());
        rng.set_stream(self.trainer.steps().wrapping_add(1));
        let last = (self.text.len() - LENGTH) as u32;
        let mut ids = Vec::with_capacity(BATCH * LENGTH);
        for _ in 0..BATCH {
            let start = rng.random_range(0..=last) as usize;
            ids.extend(self.text[start..start + LENGTH].iter().map(|b| u32::from(*b)));
        }
        Tensor::u32([BATCH, LENGTH], ids)
    }
}
