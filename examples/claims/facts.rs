//! A language of facts, "subject relation object", and transformers that learn it, with a product-key memory or without.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use wgrad::graph::Mode;
use wgrad::models::product_key::{
    Lookup, PkmTransformer, PkmTransformerConfig, ProductKeyConfig, SlotUsage, Usage, VALUES, values_group,
};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{AdamW, Group, Schedule, Trainer};
use wgrad::{Device, Feed, Graph, Plan, Result, Store, Tensor, TensorType, Var};

const SUBJECTS: u32 = 128;
const RELATIONS: u32 = 32;
const OBJECTS: u32 = 64;
/// Facts in all; those that are only learned later; texts of a batch; facts of a text.
pub const ALL: usize = (SUBJECTS * RELATIONS) as usize;
pub const NEW: usize = 64;
const BATCH: usize = 32;
const EACH: usize = 8;
/// Learning rate of everything in all models.
pub const RATE: f64 = 5e-3;

/// What is true: the object of each subject and relation, in random order; the last [`NEW`] facts are new.
pub struct World(Vec<[u32; 3]>);

impl World {
    pub fn new(rng: &mut ChaCha8Rng) -> World {
        let mut facts: Vec<[u32; 3]> = (0..SUBJECTS * RELATIONS)
            .map(|i| [i / RELATIONS, SUBJECTS + i % RELATIONS, SUBJECTS + RELATIONS + rng.random_range(0..OBJECTS)])
            .collect();
        for i in (1..facts.len()).rev() {
            facts.swap(i, rng.random_range(0..=i as u32) as usize);
        }
        World(facts)
    }

    pub fn old(&self) -> &[[u32; 3]] {
        &self.0[..ALL - NEW]
    }

    pub fn new_facts(&self) -> &[[u32; 3]] {
        &self.0[ALL - NEW..]
    }
}

/// A batch of texts and the objects in them, which are what is learned.
pub fn batch(facts: impl Iterator<Item = [u32; 3]>) -> Result<[Tensor; 2]> {
    let facts: Vec<[u32; 3]> = facts.take(BATCH * EACH).collect();
    let objects = facts.iter().map(|fact| fact[2]).collect();
    Ok([Tensor::u32([BATCH, 3 * EACH], facts.concat())?, Tensor::u32([BATCH * EACH], objects)?])
}

/// Facts drawn from a list.
pub fn drawn<'a>(rng: &'a mut ChaCha8Rng, facts: &'a [[u32; 3]]) -> impl Iterator<Item = [u32; 3]> + 'a {
    std::iter::repeat_with(|| facts[rng.random_range(0..facts.len() as u32) as usize])
}

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
    fn objects<'g>(&self, p: &ParamVars<'g>, mode: Mode, usage: Option<&SlotUsage>) -> Var<'g> {
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
