//! Conditional routing.

use super::{Model, SAMPLING};
use wgrad::models::conditional::{RoutedDecoder, RoutedStream};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::Trainer;
use wgrad::{Device, Result, Var};

impl Model for RoutedDecoder {
    fn init(&self, seed: u64) -> Params {
        RoutedDecoder::init(self, seed)
    }

    fn config(&self) -> String {
        format!("{:?}", RoutedDecoder::config(self))
    }

    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g> {
        RoutedDecoder::loss(self, params, ids)
    }

    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>> {
        let plans = self.stream_plans(device, trainer.params(), 1, prompt.len() + count);
        let mut stream = RoutedStream::new(&pollster::block_on(plans)?)?;
        stream.feed(trainer.store(), &[prompt])?;
        Ok(stream.generate_blocking(trainer.store(), count, SAMPLING, trainer.seed())?.concat())
    }
}
