//! The models that can be trained, behind one face.

mod choose;
mod infini;
mod mixed;
mod product_key;
mod recurrent;
mod routed;

pub use choose::model;

use wgrad::models::infini::Sampling;
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{Group, Trainer};
use wgrad::{Device, Result, Var};

/// A byte-level language model.
pub trait Model {
    /// Bytes of a segment, where the options do not say.
    fn segment_length(&self) -> Option<usize> {
        None
    }
    /// Fresh parameters.
    fn init(&self, seed: u64) -> Params;
    /// How to build it again, for checkpoints.
    fn config(&self) -> String;
    /// Parameters that are trained in another way than the rest, where that has the learning rate `lr`.
    fn groups(&self, _lr: f64) -> Vec<(&'static str, Group)> {
        Vec::new()
    }
    /// Mean cross entropy of the next byte over ids `[batch, length + 1]`.
    fn loss<'g>(&self, params: &ParamVars<'g>, ids: Var<'g>) -> Var<'g>;
    /// Goes on from a prompt (not empty).
    fn sample(&self, device: &Device, trainer: &Trainer, prompt: &[u32], count: usize) -> Result<Vec<u32>>;
}

/// How the sample at the end is drawn.
const SAMPLING: Sampling = Sampling { temperature: 0.8, top_k: None, top_p: Some(0.9) };
/// Learning rate of the values of a product-key memory.
const VALUES_LR: f64 = 1e-2;
