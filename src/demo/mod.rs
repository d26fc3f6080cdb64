//! The training run of the web page: a byte-level language model small enough for any machine. The same run on a native
//! machine is the page's reference.

mod model;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::exec::{Feed, Plan, Store};
use crate::graph::Graph;
use crate::types::{Tensor, TensorType};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What the model reads unless it is given something else.
const TEXT: &[u8] = include_bytes!("text.txt");
/// Windows of text in one step.
const BATCH: usize = 64;
/// Bytes of a window: the context and the byte to predict.
const WINDOW: usize = model::CONTEXT + 1;
const LEARNING_RATE: f64 = 0.5;

/// A model in training on one device.
pub struct Demo {
    plan: Plan,
    store: Store,
    text: Vec<u8>,
    seed: u64,
    step: u32,
}

impl Demo {
    /// A fresh model, drawn from `seed`, and its compiled training step. It learns `text`, or a page of its own.
    pub async fn new(device: &Device, seed: u64, text: Option<Vec<u8>>) -> Result<Demo> {
        let text = text.unwrap_or_else(|| TEXT.to_vec());
        if text.len() < WINDOW {
            let message = format!("has {} bytes; at least {WINDOW} are needed", text.len());
            return Err(Error::argument("text", message));
        }
        let store = Store::new(device);
        model::initialize(&store, seed)?;
        let graph = Graph::new();
        let windows = graph.input("windows", TensorType::u32([BATCH, WINDOW]));
        let (parameters, loss) = model::build(windows);
        for (parameter, gradient) in parameters.iter().zip(graph.grad(loss, &parameters)) {
            if let Some(gradient) = gradient.dense() {
                graph.assign(*parameter, *parameter - gradient * LEARNING_RATE);
            }
        }
        graph.gate(loss.is_finite());
        let plan = device.compile(&graph, &[("loss", loss)]).await?;
        Ok(Demo { plan, store, text, seed, step: 0 })
    }

    /// Queues one training step.
    pub fn step(&mut self) -> Result<()> {
        let windows = self.windows()?;
        let feed = Feed::new().store(&self.store).input("windows", &windows).step(self.step, self.seed);
        self.plan.run(&feed)?;
        self.step += 1;
        Ok(())
    }

    /// Mean cross-entropy of the last step, in nats a byte. Waits for it.
    pub async fn loss(&self) -> Result<f32> {
        let loss = self.plan.read("loss").await?;
        let loss = loss.floats().first().copied().unwrap_or(f32::NAN);
        if loss.is_finite() {
            return Ok(loss);
        }
        Err(Error::NotFinite { node: "loss".into(), step: u64::from(self.step.saturating_sub(1)) })
    }

    /// Steps so far.
    pub fn steps(&self) -> u32 {
        self.step
    }

    /// Bytes that one step predicts.
    pub fn tokens_per_step(&self) -> usize {
        BATCH
    }

    /// Floats that are learned.
    pub fn parameters(&self) -> usize {
        (self.store.bytes() / 4) as usize
    }

    /// Windows at places drawn from seed and step alone, so that a run can be repeated on any device.
    fn windows(&self) -> Result<Tensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(1 + u64::from(self.step));
        let last = self.text.len() - WINDOW;
        let mut bytes = Vec::with_capacity(BATCH * WINDOW);
        for _ in 0..BATCH {
            let start = rng.random_range(0..=last as u32) as usize;
            bytes.extend(self.text[start..start + WINDOW].iter().map(|b| u32::from(*b)));
        }
        Tensor::u32([BATCH, WINDOW], bytes)
    }
}
