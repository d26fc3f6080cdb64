//! Product-key memory.

use super::{Model, SAMPLING, VALUES_LR};
use wgrad::graph::Mode;
use wgrad::models::product_key::{Lookup, PkmStream, PkmTransformer, VALUES, values_group};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{Group, Trainer};
use wgrad::{Device, Result, Var};

impl Model for PkmTransformer {
    fn init(&self, seed: u64) -> Params {
        PkmTransformer::init(self, seed)
    }

    fn config(&self) -> String {
        format!("{:?}", PkmTransformer::config(self))
    }

    fn groups(&self, lr: f64) -> Vec<(&'static str, Group)> {
        vec![(VALUES, values_group(lr, VALUES_LR))]
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        PkmTransformer::loss(self, params, ids, &Lookup::new(Mode::Train, 0)).0
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = pollster::block_on(self.stream_plans(device, trainer.params(), 1))?;
        let mut stream = PkmStream::new(&plans)?;
        stream.feed_blocking(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}
