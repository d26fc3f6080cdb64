//! All of them in one model.

use super::{Model, SAMPLING, VALUES_LR};
use wgrad::models::mix::{MemoryStream, MemoryTransformer};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{Group, Trainer};
use wgrad::{Device, Result, Var};

impl Model for MemoryTransformer {
    fn segment_length(&self) -> Option<usize> {
        Some(MemoryTransformer::config(self).segment)
    }

    fn init(&self, seed: u64) -> Params {
        MemoryTransformer::init(self, seed)
    }

    fn config(&self) -> String {
        MemoryTransformer::config(self).to_json()
    }

    fn groups(&self, lr: f64) -> Vec<(&'static str, Group)> {
        MemoryTransformer::groups(self, lr, VALUES_LR)
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        MemoryTransformer::loss(self, params, ids)
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = pollster::block_on(self.stream_plans(device, trainer.params(), 1))?;
        let mut stream = MemoryStream::new(&plans)?;
        stream.feed(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}
