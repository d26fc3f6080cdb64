//! What the model's routers do with a text.

use crate::model::{Model, ONE_IN};
use wgrad::models::conditional::{Route, Router};
use wgrad::train::Trainer;
use wgrad::{Device, Error, Feed, Graph, Result, Tensor, TensorType};

/// One router's work: its score of every byte, and whether it sent it to the heavy branch.
pub struct Strip {
    pub title: &'static str,
    pub scores: Vec<f32>,
    pub routed: Vec<bool>,
}

/// Routes a text with the trainer's parameters.
pub fn route(device: &Device, model: &Model, trainer: &Trainer, text: &[u8]) -> Result<Vec<Strip>> {
    let n = text.len();
    let graph = Graph::new();
    let p = trainer.params().vars(&graph);
    let ids = graph.input("ids", TensorType::u32([1, n]));
    let routers = model.routers(&p, ids);
    let mut outputs = Vec::new();
    let names = ["q", "kv", "ff"].map(|n| (format!("{n}.scores"), format!("{n}.routed")));
    for ((_, router, x), (scores, routed)) in routers.iter().zip(&names) {
        let Router::CoordinateDescent(router) = router else {
            return Err(Error::argument("router", "expected one of coordinate descent"));
        };
        let route = Route::new(n / ONE_IN);
        let Some(indices) = router.forward(&p, *x, &route).indices else {
            return Err(Error::argument("text", "has too few bytes to be routed"));
        };
        outputs.push((scores.as_str(), router.scores(&p, *x, &route)));
        outputs.push((routed.as_str(), indices));
    }
    let plan = device.compile_blocking(&graph, &outputs)?;
    let ids = Tensor::u32([1, n], text.iter().map(|b| u32::from(*b)).collect())?;
    plan.run(&Feed::new().store(trainer.store()).input("ids", &ids))?;
    let mut strips = Vec::new();
    for ((title, ..), (scores, routed)) in routers.iter().zip(&names) {
        let mut strip = Strip { title, scores: plan.read_blocking(scores)?.floats().to_vec(), routed: vec![false; n] };
        for index in plan.read_blocking(routed)?.ints() {
            if let Some(routed) = strip.routed.get_mut(*index as usize) {
                *routed = true;
            }
        }
        strips.push(strip);
    }
    Ok(strips)
}
