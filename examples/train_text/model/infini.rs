//! Infini-attention.

use super::{Model, SAMPLING};
use wgrad::graph::Mode;
use wgrad::models::infini::{InfiniStream, InfiniTransformer, SegmentLoss};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::Trainer;
use wgrad::{Device, Result, Var};

pub struct Infini {
    pub model: InfiniTransformer,
    pub length: usize,
}

impl Model for Infini {
    fn init(&self, seed: u64) -> Params {
        self.model.init(seed)
    }

    fn config(&self) -> String {
        format!("{:?}", self.model.config())
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        let options = SegmentLoss { segment_length: self.length, ..Default::default() };
        self.model.segment_loss(params, ids, options, Mode::Train)
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = pollster::block_on(self.model.stream_plans(device, trainer.params(), 1, self.length))?;
        let mut stream = InfiniStream::new(&plans)?;
        stream.feed(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}
