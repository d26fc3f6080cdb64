//! A task in which it matters which tokens the heavy branch sees: a few marked tokens among many know the answer, and a few
//! others, far away, are asked.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::models::conditional::{
    BlockConfig, BlockRoute, ConditionalRoutedTransformerBlock, CoordinateDescentRouterConfig, Route, Router,
};
use wgrad::nn::{Embedding, Linear, ParamVars, Params};
use wgrad::train::{AdamW, Schedule, Trainer};
use wgrad::{Device, Feed, Graph, Plan, Result, Tensor, TensorType, Var};

/// Tokens of a sequence.
pub const LENGTH: usize = 256;
/// Tokens that are marked, and vote for the answer.
pub const MARKED: usize = 16;
/// Tokens that are asked.
pub const ASKED: usize = 8;
/// Possible answers.
pub const ANSWERS: u32 = 8;
/// Things a token may say that mean nothing.
const WORDS: u32 = 256;
/// Sequences of a step.
const BATCH: usize = 16;
/// Chance that a marked token votes right.
const RIGHT: f32 = 0.8;
/// Features of a token.
const DIM: usize = 32;
/// Label of tokens that are not asked.
const NONE: u32 = ANSWERS;

/// Batches that losses are measured on, the same for all.
const HELD_OUT: u64 = 16;
/// What they are drawn from; no run has this seed.
const HELD_OUT_SEED: u64 = u64::MAX;

/// How tokens are routed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Routing {
    /// By routers with this library's defaults.
    Learned,
    /// By routers with the defaults of the published package, version 0.11.2.
    Published,
    /// At random, anew each time.
    Random,
    /// None: all tokens go through the heavy branch.
    All,
}

/// Sequences and their answers.
pub struct Batch {
    /// What a token is, u32 `[b, n]`: 0 nothing, 1 marked, 2 asked.
    kinds: Tensor,
    /// The vote of a token, u32 `[b, n]`; that of unmarked tokens means nothing.
    votes: Tensor,
    /// What else a token says, u32 `[b, n]`; it means nothing.
    words: Tensor,
    /// The answer at tokens that are asked, else 8.
    labels: Tensor,
}

impl Batch {
    /// Drawn from seed and step.
    pub fn draw(seed: u64, step: u64) -> Result<Batch> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1 + step);
        let [mut kinds, mut votes, mut words, mut labels] = [const { Vec::new() }; 4];
        for _ in 0..BATCH {
            let answer = rng.random_range(0..ANSWERS);
            let mut kind = [0; LENGTH];
            for (count, is) in [(MARKED, 1), (ASKED, 2)] {
                let mut left = count;
                while left > 0 {
                    let at = rng.random_range(0..LENGTH as u32) as usize;
                    if kind[at] == 0 {
                        kind[at] = is;
                        left -= 1;
                    }
                }
            }
            for is in kind {
                let right = is == 1 && rng.random::<f32>() < RIGHT;
                votes.push(if right { answer } else { rng.random_range(0..ANSWERS) });
                labels.push(if is == 2 { answer } else { NONE });
            }
            kinds.extend(kind);
            words.extend((0..LENGTH).map(|_| rng.random_range(0..WORDS)));
        }
        let tensor = |data| Tensor::u32([BATCH, LENGTH], data);
        Ok(Batch { kinds: tensor(kinds)?, votes: tensor(votes)?, words: tensor(words)?, labels: tensor(labels)? })
    }

    fn inputs(&self) -> [(&'static str, &Tensor); 4] {
        [("kinds", &self.kinds), ("votes", &self.votes), ("words", &self.words), ("labels", &self.labels)]
    }
}

/// One routed block between an embedding and a linear map to answers.
struct Model {
    kinds: Embedding,
    votes: Embedding,
    words: Embedding,
    block: ConditionalRoutedTransformerBlock,
    head: Linear,
    routing: Routing,
    heavy: usize,
}

impl Model {
    fn new(params: &mut Params, routing: Routing, heavy: usize) -> Result<Model> {
        let mut config = BlockConfig::new(DIM, heavy, heavy, heavy);
        if routing == Routing::Published {
            config = config.router(CoordinateDescentRouterConfig::reference());
        }
        let attention = &mut config.attention;
        (attention.light_heads, attention.light_dim_head, attention.light_window_size) = (2, 16, 16);
        (attention.heavy_heads, attention.heavy_dim_head) = (2, 16);
        Ok(Model {
            kinds: Embedding::new(params, "kinds", 3, DIM),
            votes: Embedding::new(params, "votes", ANSWERS as usize, DIM),
            words: Embedding::new(params, "words", WORDS as usize, DIM),
            block: ConditionalRoutedTransformerBlock::new(params, "block", config)?,
            head: Linear::new(params, "head", DIM, ANSWERS as usize, true),
            routing,
            heavy,
        })
    }

    fn route<'g>(&self) -> BlockRoute<'g> {
        let mut route = self.block.route();
        let random = self.routing == Routing::Random;
        (route.attention.random_route, route.feed_forward.random_route) = (random, random);
        route
    }

    fn embed<'g>(&self, p: &ParamVars<'g>) -> Var<'g> {
        let ids = |name| p.graph().input(name, TensorType::u32([BATCH, LENGTH]));
        self.kinds.forward(p, ids("kinds")) + self.votes.forward(p, ids("votes")) + self.words.forward(p, ids("words"))
    }

    fn loss<'g>(&self, p: &ParamVars<'g>) -> Var<'g> {
        let out = self.block.forward(p, self.embed(p), &self.route());
        let logits = self.head.forward(p, out.layer_norm(None, None, 1e-5));
        let labels = p.graph().input("labels", TensorType::u32([BATCH, LENGTH]));
        logits.cross_entropy_mean(labels, Some(i64::from(NONE)))
    }
}

/// What a model does on the held-out batches.
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

/// Trains for so many steps on batches that are always new; measures after each quarter. `heavy` tokens of a sequence take the
/// heavy branch: all, if there are no more.
pub fn train(
    device: &Device,
    (routing, heavy): (Routing, usize),
    seed: u64,
    (steps, rate): (u64, f64),
) -> Result<Vec<Measured>> {
    let mut params = Params::new(seed);
    let heavy = if routing == Routing::All { LENGTH } else { heavy };
    let model = Model::new(&mut params, routing, heavy)?;
    let mut trainer = Trainer::builder(device, params, AdamW::default().lr(rate).weight_decay(0.0))
        .schedule(Schedule::Warmup { steps: 20 })
        .clip(1.0)
        .compile_blocking(|_, p| model.loss(p))?;
    let measure = model.measure(device, &trainer)?;
    let operations = model.operations(device, &trainer)?;
    let mut measured = Vec::new();
    for step in 0..steps {
        trainer.step(&Batch::draw(seed, step)?.inputs())?;
        if (step + 1) * 4 / steps.max(1) > measured.len() as u64 {
            measured.push(Measured { operations, ..held_out(&measure, &trainer)? });
        }
    }
    Ok(measured)
}

/// Share of the tokens of one kind, of which a sequence has `of`, that are among the routed ones.
fn share<'g>(kinds: Var<'g>, routed: Option<Var<'g>>, kind: u32, of: usize) -> Var<'g> {
    let found = routed.map_or(kinds, |indices| kinds.take_along(indices, 1)).eq(kind).to_f32();
    found.sum_all() / (of * BATCH) as f64
}

impl Model {
    fn operations(&self, device: &Device, trainer: &Trainer) -> Result<f64> {
        let graph = Graph::new();
        let plan = device.compile_blocking(&graph, &[("loss", self.loss(&trainer.params().vars(&graph)))])?;
        let all: u64 = plan.explain().dispatches.iter().map(|d| d.operations).sum();
        Ok(all as f64 / (BATCH * LENGTH) as f64)
    }

    /// Loss and shares of one batch.
    fn measure(&self, device: &Device, trainer: &Trainer) -> Result<Plan> {
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
fn held_out(plan: &Plan, trainer: &Trainer) -> Result<Measured> {
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
