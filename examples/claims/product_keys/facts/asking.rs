//! What a model knows of the facts.

use super::{BATCH, EACH, Model, batch};
use wgrad::graph::Mode;
use wgrad::models::product_key::{SlotUsage, Usage};
use wgrad::nn::Params;
use wgrad::{Device, Feed, Graph, Plan, Result, Store, TensorType};

impl Model {
    /// A plan that asks.
    pub fn asking(&self, params: &Params, usage: &SlotUsage) -> Result<Plan> {
        let graph = Graph::new();
        let p = params.vars(&graph);
        let logits = self.objects(&p, Mode::Eval, Some(usage));
        let objects = graph.input("objects", TensorType::u32([BATCH * EACH]));
        let outputs = [("loss", logits.cross_entropy_mean(objects, None)), ("answers", logits.argmax(1))];
        Device::cpu().compile_blocking(&graph, &outputs)
    }
}

/// Perplexity, share of right answers in percent, and use of slots over facts, in whole batches.
pub fn ask(plan: &Plan, usage: &SlotUsage, store: &Store, facts: &[[u32; 3]]) -> Result<(f64, f64, Usage)> {
    let counts = Store::new(store.device());
    usage.reset(&counts)?;
    let (mut loss, mut right) = (0.0, 0);
    let batches = (facts.len() / (BATCH * EACH)).max(1);
    for i in 0..batches {
        let [ids, objects] = batch(facts.iter().copied().cycle().skip(i * BATCH * EACH))?;
        plan.run(&Feed::new().store(store).store(&counts).input("ids", &ids).input("objects", &objects))?;
        loss += f64::from(plan.read_blocking("loss")?.floats()[0]) / batches as f64;
        let answers = plan.read_blocking("answers")?;
        right += answers.ints().iter().zip(objects.ints()).filter(|(a, b)| a == b).count();
    }
    let asked = (batches * BATCH * EACH) as f64;
    Ok((loss.exp(), 100.0 * right as f64 / asked, usage.read_blocking(&counts)?))
}
