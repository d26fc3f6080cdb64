//! Transformers that learn the facts, with a product-key memory or without.

use super::{BATCH, EACH, OBJECTS, RELATIONS, SUBJECTS, batch, drawn};
use rand_chacha::ChaCha8Rng;
use wgrad::graph::Mode;
use wgrad::models::product_key::{
    Lookup, PkmTransformer, PkmTransformerConfig, ProductKeyConfig, SlotUsage, VALUES, values_group,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{AdamW, Group, Schedule, Trainer};
use wgrad::{Device, Graph, Result, Tensor, TensorType, Var};

/// A transformer of two layers, the feed-forward of the second a memory or not.
pub struct Model(PkmTransformer);

impl Model {
    pub fn new(dim: usize, memory: bool) -> Result<Model> {
        let keys = ProductKeyConfig { heads: 4, num_keys: 48, topk: 8, dim_head: 16, ..ProductKeyConfig::new(dim) };
        let sizes = PkmTransformerConfig::new((SUBJECTS + RELATIONS + OBJECTS) as usize, 2, 3 * EACH, keys);
        let pkm_layers = if memory { vec![2] } else { vec![] };
        Ok(Model(PkmTransformer::new(PkmTransformerConfig { pkm_layers, heads: 2, dim_head: 16, ..sizes })?))
    }

    pub fn init(&self, seed: u64) -> Params {
        self.0.init(seed)
    }

    pub fn slots(&self) -> usize {
        if self.0.memories().next().is_some() { self.0.config().memory.slots() } else { 0 }
    }

    /// Logits `[facts, tokens]` of the objects; `trained`: the input of the slots that may learn.
    pub(super) fn objects<'g>(&self, p: &ParamVars<'g>, mode: Mode, usage: Option<&SlotUsage>) -> Var<'g> {
        let g = p.graph();
        let mut lookup = Lookup::new(mode, 0);
        if mode == Mode::Train && self.slots() > 0 {
            lookup = lookup.trainable(g.input("slots", TensorType::u32([self.slots()])));
        }
        let (x, recalls) = self.0.features(p, g.input("ids", TensorType::u32([BATCH, 3 * EACH])), &lookup);
        if let Some(usage) = usage.filter(|_| self.slots() > 0) {
            // Only where an object is asked for.
            let asked = (0..3 * EACH * BATCH).map(|i| u32::from(i % 3 == 1)).collect();
            let mask = Tensor::u32([3 * EACH * BATCH], asked).map(|mask| g.constant(mask));
            usage.count(&recalls, &mask.into_iter().collect::<Vec<_>>());
        }
        let asked = x.reshape([BATCH * EACH, 3, x.dim(2)]).slice(1, 1, 1).reshape([BATCH * EACH, x.dim(2)]);
        self.0.logits(p, asked)
    }

    fn loss<'g>(&self, p: &ParamVars<'g>, mode: Mode) -> Var<'g> {
        let objects = p.graph().input("objects", TensorType::u32([BATCH * EACH]));
        self.objects(p, mode, None).cross_entropy_mean(objects, None)
    }

    /// Operations of one token, forward, as the plan counts them.
    pub fn operations(&self) -> Result<f64> {
        let graph = Graph::new();
        let p = self.init(0).vars(&graph);
        let plan = Device::cpu().compile_blocking(&graph, &[("logits", self.objects(&p, Mode::Eval, None))])?;
        let all: u64 = plan.explain().dispatches.iter().map(|d| d.operations).sum();
        Ok(all as f64 / (3 * EACH * BATCH) as f64)
    }

    /// A trainer of so many steps at a rate; `rest` is for all parameters but the values of the memory.
    pub fn trainer(&self, params: Params, (steps, rate): (usize, f64), rest: Group) -> Result<Trainer> {
        let schedule = Schedule::Cosine { warmup: 20, total: steps as u64, floor: 0.05 };
        let mut builder = Trainer::builder(&Device::cpu(), params, AdamW::default().lr(rate).weight_decay(0.0));
        builder = builder.group("default", rest).schedule(schedule).clip(1.0);
        if self.slots() > 0 {
            builder = builder.group(VALUES, values_group(rate, rate));
        }
        builder.compile_blocking(|_, p| self.loss(p, Mode::Train))
    }

    /// Trains on facts drawn from a list.
    pub fn train(
        &self,
        trainer: &mut Trainer,
        rng: &mut ChaCha8Rng,
        (facts, steps): (&[[u32; 3]], usize),
        slots: &Tensor,
    ) -> Result<()> {
        for _ in 0..steps {
            let [ids, objects] = batch(drawn(rng, facts))?;
            let inputs = [("ids", &ids), ("objects", &objects), ("slots", slots)];
            trainer.step(&inputs[..if self.slots() > 0 { 3 } else { 2 }])?;
        }
        Ok(())
    }
}
