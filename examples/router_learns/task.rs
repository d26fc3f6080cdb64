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
/// Tokens that the heavy branch sees: queries, keys and values, feed-forward.
pub const HEAVY: usize = 16;
pub const QUERIES: usize = 16;
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

/// How tokens are routed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Routing {
    /// By routers with this library's defaults.
    Learned,
    /// By routers with the defaults of the published package, version 0.11.2.
    Package,
    /// At random, anew each time.
    Random,
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
}

impl Model {
    fn new(params: &mut Params, routing: Routing) -> Result<Model> {
        let mut config = BlockConfig::new(DIM, QUERIES, HEAVY, QUERIES);
        if routing == Routing::Package {
            config = config.router(CoordinateDescentRouterConfig::reference());
        }
        if let (Routing::Learned, Some(eps)) = (routing, std::env::var("EPS").ok().and_then(|v| v.parse::<f64>().ok()))
        {
            config = config.router(CoordinateDescentRouterConfig {
                how: wgrad::ops::route::soft_top_k::SoftTopK::exact(eps),
                ..Default::default()
            });
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
        self.kinds.forward(p, ids("kinds")) * 0.3
            + self.votes.forward(p, ids("votes"))
            + self.words.forward(p, ids("words"))
    }

    fn loss<'g>(&self, p: &ParamVars<'g>) -> Var<'g> {
        let out = self.block.forward(p, self.embed(p), &self.route());
        let logits = self.head.forward(p, out.layer_norm(None, None, 1e-5));
        let labels = p.graph().input("labels", TensorType::u32([BATCH, LENGTH]));
        logits.cross_entropy_mean(labels, Some(i64::from(NONE)))
    }
}

/// What a run came to.
pub struct Outcome {
    /// Mean loss of each tenth of the steps, in nats an answer; batches are always new ones.
    pub losses: Vec<f64>,
    /// Share of marked tokens that were routed as keys and values at the end.
    pub marked: f64,
    /// Share of asked tokens that were routed as queries at the end.
    pub asked: f64,
}

impl Outcome {
    /// Mean loss of the last tenth.
    pub fn last(&self) -> f64 {
        self.losses.last().copied().unwrap_or(f64::NAN)
    }
}

/// Trains for so many steps.
pub fn train(device: &Device, routing: Routing, seed: u64, steps: u64) -> Result<Outcome> {
    let mut params = Params::new(seed);
    let model = Model::new(&mut params, routing)?;
    let mut trainer = Trainer::builder(
        device,
        params,
        AdamW::default().lr(std::env::var("LR").ok().and_then(|v| v.parse().ok()).unwrap_or(5e-3)).weight_decay(0.0),
    )
    .schedule(Schedule::Warmup { steps: 20 })
    .clip(1.0)
    .compile_blocking(|_, p| model.loss(p))?;
    let (mut losses, mut sum, mut count) = (Vec::new(), 0.0, 0u32);
    for step in 0..steps {
        trainer.step(&Batch::draw(seed, step)?.inputs())?;
        sum += f64::from(trainer.loss_blocking()?);
        count += 1;
        if (step + 1) * 10 / steps.max(1) > losses.len() as u64 {
            losses.push(sum / f64::from(count));
            (sum, count) = (0.0, 0);
        }
    }
    let [asked, marked] = found(device, &model, &trainer, seed, steps)?;
    Ok(Outcome { losses, marked, asked })
}

/// Share of the tokens of one kind, of which a sequence has `of`, that are among the routed ones.
fn hits<'g>(kinds: Var<'g>, routed: Option<Var<'g>>, kind: u32, of: usize) -> Var<'g> {
    let found = routed.map_or(kinds, |indices| kinds.take_along(indices, 1)).eq(kind).to_f32();
    found.sum_all() / (of * BATCH) as f64
}

/// Shares of asked tokens among the queries and of marked ones among the keys of a fresh batch.
fn found(device: &Device, model: &Model, trainer: &Trainer, seed: u64, step: u64) -> Result<[f64; 2]> {
    let graph = Graph::new();
    let p = trainer.params().vars(&graph);
    let x = model.embed(&p);
    let pick = |router: &Router, k: usize, site: u32| {
        let random_route = model.routing == Routing::Random;
        router.forward(&p, x, &Route { random_route, site, ..Route::new(k) }).indices
    };
    let attention = &model.block.attention;
    let (queries, keys) = (pick(attention.q_router(), QUERIES, 0), pick(attention.kv_router(), HEAVY, 1));
    let kinds = graph.input("kinds", TensorType::u32([BATCH, LENGTH]));
    let outputs = [("asked", hits(kinds, queries, 2, ASKED)), ("marked", hits(kinds, keys, 1, MARKED))];
    let plan: Plan = device.compile_blocking(&graph, &outputs)?;
    let batch = Batch::draw(seed, step)?;
    let mut feed = Feed::new().store(trainer.store()).step(step as u32, seed);
    for (name, tensor) in batch.inputs() {
        feed = feed.input(name, tensor);
    }
    plan.run(&feed)?;
    let read = |name| Ok::<f64, wgrad::Error>(f64::from(plan.read_blocking(name)?.floats()[0]));
    Ok([read("asked")?, read("marked")?])
}
