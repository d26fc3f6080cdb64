//! Facts, and the memory that learns them.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use wgrad::graph::Mode;
use wgrad::models::product_key::{Lookup, ProductKeyConfig, ProductKeyMemory, SlotUsage, VALUES, values_group};
use wgrad::nn::{Linear, Params};
use wgrad::train::{Adam, Group, Trainer};
use wgrad::{Device, Graph, Plan, Result, Tensor, TensorType};

/// Features of a question.
pub const DIM: usize = 32;
/// Possible answers.
const ANSWERS: usize = 16;
/// Topics of questions, and how far questions are from their topic.
pub const TOPICS: usize = 8;
const NEARNESS: f32 = 0.4;
/// Facts in a batch.
pub const BATCH: usize = 32;
const LR: f64 = 2e-3;

/// Questions and their answers.
pub struct Facts {
    pub x: Tensor,
    pub y: Tensor,
}

/// Questions about a few topics, so that new ones are much like old ones.
pub fn facts(rng: &mut ChaCha8Rng, topics: &[f32]) -> Result<Facts> {
    let mut x = Vec::with_capacity(BATCH * DIM);
    for _ in 0..BATCH {
        let topic = rng.random_range(0..topics.len() as u32 / DIM as u32) as usize * DIM;
        x.extend(topics[topic..topic + DIM].iter().map(|t| t + rng.random_range(-NEARNESS..NEARNESS)));
    }
    let y = (0..BATCH).map(|_| rng.random_range(0..ANSWERS as u32)).collect();
    Ok(Facts { x: Tensor::f32([BATCH, DIM], x)?, y: Tensor::u32([BATCH], y)? })
}

/// A memory between questions and answers.
pub struct Model {
    memory: ProductKeyMemory,
    head: Linear,
}

impl Model {
    pub fn new(params: &mut Params) -> Result<Self> {
        let c = ProductKeyConfig { heads: 4, num_keys: 32, topk: 8, dim_head: 16, ..ProductKeyConfig::new(DIM) };
        let memory = ProductKeyMemory::new(params, "memory", c)?;
        Ok(Model { memory, head: Linear::new(params, "head", DIM, ANSWERS, true) })
    }

    pub fn slots(&self) -> usize {
        self.memory.config().slots()
    }

    /// A trainer that starts from `params`; `rest` is for everything but the values of the memory.
    pub fn trainer(&self, device: &Device, params: Params, rest: Group) -> Result<Trainer> {
        Trainer::builder(device, params, Adam::default().lr(LR))
            .group(VALUES, values_group(LR, 1e-2))
            .group("default", rest)
            .compile_blocking(|g, p| {
                let [x, y] = [TensorType::f32([BATCH, DIM]), TensorType::u32([BATCH])];
                let slots = g.input("slots", TensorType::u32([self.slots()]));
                let lookup = Lookup::new(Mode::Train, 0).trainable(slots);
                let read = self.memory.forward(p, g.input("x", x), &lookup);
                self.head.forward(p, read).cross_entropy_mean(g.input("y", y), None)
            })
    }

    /// A plan that answers questions and counts the slots it reads.
    pub fn answering(&self, device: &Device, params: &Params, usage: &SlotUsage) -> Result<Plan> {
        let graph = Graph::new();
        let p = params.vars(&graph);
        let x = graph.input("x", TensorType::f32([BATCH, DIM]));
        let recall = self.memory.recall(&p, x, &Lookup::new(Mode::Eval, 0));
        usage.count(&[recall], &[]);
        device.compile_blocking(&graph, &[("answer", self.head.forward(&p, recall.out).argmax(1))])
    }
}
