//! What a model does on held-out batches.

use super::batch::{ASKED, BATCH, Batch, LENGTH, MARKED};
use super::model::Model;
use wgrad::models::conditional::{Route, Router};
use wgrad::train::Trainer;
use wgrad::{Device, Feed, Graph, Plan, Result, TensorType, Var};

/// Batches that losses are measured on, the same for all.
const HELD_OUT: u64 = 16;
/// What they are drawn from; no run has this seed.
const HELD_OUT_SEED: u64 = u64::MAX;

/// Means over the held-out batches.
#[derive(Clone, Copy, Default)]
pub struct Measured {
    /// Mean loss, in nats an answer.
    pub loss: f64,
    /// Share of asked tokens that are routed as queries.
    pub asked: f64,
    /// Share of marked tokens that are routed as keys and values.
    pub marked: f64,
    /// Operations of a token, forward, as the plan counts them.
    pub operations: f64,
}

/// Share of the tokens of one kind, of which a sequence has `of`, that are among the routed ones.
fn share<'g>(kinds: Var<'g>, routed: Option<Var<'g>>, kind: u32, of: usize) -> Var<'g> {
    let found = routed.map_or(kinds, |indices| kinds.take_along(indices, 1)).eq(kind).to_f32();
    found.sum_all() / (of * BATCH) as f64
}

impl Model {
    pub fn operations(&self, device: &Device, trainer: &Trainer) -> Result<f64> {
        let graph = Graph::new();
        let plan = device.compile_blocking(&graph, &[("loss", self.loss(&trainer.params().vars(&graph)))])?;
        let all: u64 = plan.explain().dispatches.iter().map(|d| d.operations).sum();
        Ok(all as f64 / (BATCH * LENGTH) as f64)
    }

    /// Loss and shares of one batch.
    pub fn measure(&self, device: &Device, trainer: &Trainer) -> Result<Plan> {
        let graph = Graph::new();
        let p = trainer.params().vars(&graph);
        let (x, route) = (self.embed(&p), self.route().attention);
        let attention = &self.block.attention;
        let pick = |router: &Router, num_tokens: usize, site: u32| {
            let random_route = route.random_route;
            router.forward(&p, x, &Route { random_route, site, ..Route::new(num_tokens) }).indices
        };
        let (queries, keys) = (pick(attention.q_router(), self.heavy, 0), pick(attention.kv_router(), self.heavy, 1));
        let kinds = graph.input("kinds", TensorType::u32([BATCH, LENGTH]));
        let (asked, marked) = (share(kinds, queries, 2, ASKED), share(kinds, keys, 1, MARKED));
        device.compile_blocking(&graph, &[("loss", self.loss(&p)), ("asked", asked), ("marked", marked)])
    }
}

/// Means over the held-out batches.
pub fn held_out(plan: &Plan, trainer: &Trainer) -> Result<Measured> {
    let mut mean = Measured::default();
    for i in 0..HELD_OUT {
        let batch = Batch::draw(HELD_OUT_SEED, i)?;
        let mut feed = Feed::new().store(trainer.store()).step(i as u32, HELD_OUT_SEED);
        for (name, tensor) in batch.inputs() {
            feed = feed.input(name, tensor);
        }
        plan.run(&feed)?;
        for (name, sum) in [("loss", &mut mean.loss), ("asked", &mut mean.asked), ("marked", &mut mean.marked)] {
            *sum += plan.read_blocking(name)?.floats().iter().map(|v| f64::from(*v)).sum::<f64>() / HELD_OUT as f64;
        }
    }
    Ok(mean)
}
