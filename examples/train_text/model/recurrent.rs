//! Block recurrence.

use super::{Model, SAMPLING};
use wgrad::models::recurrent::{BlockRecurrentTransformer, Carried, RecurrentStream};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::Trainer;
use wgrad::{Device, Result, Var};

impl Model for BlockRecurrentTransformer {
    fn init(&self, seed: u64) -> Params {
        BlockRecurrentTransformer::init(self, seed)
    }

    fn config(&self) -> String {
        format!("{:?}", BlockRecurrentTransformer::config(self))
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        BlockRecurrentTransformer::loss(self, params, ids, &Carried::default()).0
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = pollster::block_on(self.stream_plans(device, trainer.params(), 1))?;
        let mut stream = RecurrentStream::new(&plans)?;
        stream.feed(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}
