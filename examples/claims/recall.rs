//! Texts that name things once and ask for them later, near and far; and, if wanted, for facts that are true in all texts.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{AdamW, Group, Schedule, Trainer};
use wgrad::{Device, Feed, Graph, Plan, Result, Tensor, TensorType, Var};

/// Answers: the first tokens. Then come those that name a thing (thing and value in one), those that ask for it, hay, and
/// subjects and relations of lasting facts.
pub const VALUES: u32 = 8;
const THINGS: u32 = 8;
const NAME: u32 = VALUES;
const ASK: u32 = NAME + THINGS * VALUES;
const HAY: u32 = ASK + THINGS;
const SUBJECT: u32 = HAY + 8;
const SUBJECTS: u32 = 24;
const RELATION: u32 = SUBJECT + SUBJECTS;
/// Size of the vocabulary.
pub const TOKENS: usize = (RELATION + SUBJECTS) as usize;
/// Texts of a step, and batches of the test.
const BATCH: usize = 8;
const TESTED: u64 = 8;

/// What texts there are.
#[derive(Clone, Copy)]
pub struct Task {
    /// Tokens of a text.
    pub length: usize,
    /// Things that are named in it, 8 at most.
    pub things: u32,
    /// Of 12 tokens so many ask for them.
    pub asking: u32,
    /// Whether two in 12 ask for lasting facts.
    pub lasting: bool,
}

/// What a question needs.
#[derive(Clone, Copy, PartialEq)]
pub enum Needs {
    /// A thing that was named so many tokens before.
    Thing(usize),
    /// A lasting fact.
    Fact,
}

/// The texts of a batch: tokens, answers (`u32::MAX` where nothing is asked), and what each question needs.
struct Texts {
    ids: Tensor,
    labels: Tensor,
    asked: Vec<(usize, Needs)>,
}

/// Drawn from seed and step. Things are named in the first half.
fn texts(task: Task, facts: Option<&[u32]>, seed: u64, step: u64) -> Result<Texts> {
    let Task { length: n, things, asking, .. } = task;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(1 + step);
    let mut below = |most: u32| rng.random_range(0..most);
    let (mut ids, mut labels, mut asked) = (vec![0; BATCH * n], vec![u32::MAX; BATCH * n], Vec::new());
    for text in 0..BATCH {
        let named: Vec<(usize, u32)> = (0..things).map(|_| (below(n as u32 / 2) as usize, below(VALUES))).collect();
        let mut at = 0;
        while at < n {
            let here = text * n + at;
            let naming = named.iter().position(|(place, _)| *place == at);
            let (thing, what) = (below(things) as usize, below(12));
            let (place, value) = named[thing];
            let room = at + 1 < n && named.iter().all(|(place, _)| *place != at + 1);
            match (naming, facts) {
                (Some(thing), _) => ids[here] = NAME + thing as u32 * VALUES + named[thing].1,
                // Where two were to be named at once only the first was.
                (None, _)
                    if what < asking && place < at && named.iter().position(|(p, _)| *p == place) == Some(thing) =>
                {
                    (ids[here], labels[here]) = (ASK + thing as u32, value);
                    asked.push((here, Needs::Thing(at - place)));
                }
                (None, Some(facts)) if what < asking + 2 && room => {
                    let (subject, relation) = (below(SUBJECTS), below(SUBJECTS));
                    (ids[here], ids[here + 1]) = (SUBJECT + subject, RELATION + relation);
                    labels[here + 1] = facts[(subject * SUBJECTS + relation) as usize];
                    asked.push((here + 1, Needs::Fact));
                    at += 1;
                }
                _ => ids[here] = HAY + below(8),
            }
            at += 1;
        }
    }
    Ok(Texts { ids: Tensor::u32([BATCH, n], ids)?, labels: Tensor::u32([BATCH * n], labels)?, asked })
}

/// Lasting facts.
pub fn facts(seed: u64) -> Vec<u32> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    (0..SUBJECTS * SUBJECTS).map(|_| rng.random_range(0..VALUES)).collect()
}

/// A question of the test: position in the text, what it needs, loss in nats, and whether the answer was right.
pub struct Answer {
    #[allow(dead_code, reason = "not every program asks where")]
    pub position: usize,
    pub needs: Needs,
    pub loss: f64,
    pub right: bool,
}

/// A language model: its parameters, groups that are not trained like the rest, and logits of ids.
pub trait Model {
    fn init(&self, seed: u64) -> Params;
    fn groups(&self, _rate: f64) -> Vec<(&'static str, Group)> {
        Vec::new()
    }
    /// `[b, n, tokens]` of ids u32 `[b, n]`.
    fn logits<'g>(&self, p: &ParamVars<'g>, ids: Var<'g>) -> Var<'g>;
}

/// Operations of a token of texts of n, forward, as the plan counts them.
pub fn operations(model: &impl Model, n: usize) -> Result<f64> {
    let graph = Graph::new();
    let p = model.init(0).vars(&graph);
    let logits = model.logits(&p, graph.input("ids", TensorType::u32([BATCH, n])));
    let plan = Device::cpu().compile_blocking(&graph, &[("logits", logits)])?;
    Ok(plan.explain().dispatches.iter().map(|d| d.operations).sum::<u64>() as f64 / (BATCH * n) as f64)
}

/// Trains on texts that are always new, and tests on others.
pub fn train(model: &(impl Model + Sync), task: Task, seed: u64, (steps, rate): (usize, f64)) -> Result<Vec<Answer>> {
    let device = Device::cpu();
    let n = task.length;
    let facts = task.lasting.then(|| facts(seed));
    let builder = Trainer::builder(&device, model.init(seed), AdamW::default().lr(rate).weight_decay(0.0));
    let builder = model.groups(rate).into_iter().fold(builder, |b, (name, group)| b.group(name, group));
    let schedule = Schedule::Cosine { warmup: 30, total: steps as u64, floor: 0.05 };
    let mut trainer = builder.schedule(schedule).clip(1.0).compile_blocking(|g, p| {
        let logits = model.logits(p, g.input("ids", TensorType::u32([BATCH, n]))).reshape([BATCH * n, TOKENS]);
        logits.cross_entropy_mean(g.input("labels", TensorType::u32([BATCH * n])), None)
    })?;
    for step in 0..steps as u64 {
        let texts = texts(task, facts.as_deref(), seed, step)?;
        trainer.step(&[("ids", &texts.ids), ("labels", &texts.labels)])?;
    }
    let plan = testing(model, &trainer, n)?;
    let mut answers = Vec::new();
    for i in 0..TESTED {
        let texts = texts(task, facts.as_deref(), seed, 1 << 32 | i)?;
        plan.run(&Feed::new().store(trainer.store()).input("ids", &texts.ids).input("labels", &texts.labels))?;
        let (losses, said) = (plan.read_blocking("losses")?, plan.read_blocking("said")?);
        answers.extend(texts.asked.iter().map(|(at, needs)| Answer {
            position: at % n,
            needs: *needs,
            loss: f64::from(losses.floats()[*at]),
            right: said.ints()[*at] == texts.labels.ints()[*at],
        }));
    }
    let right = of(&answers, |_| true, |a| f64::from(u8::from(a.right)));
    eprintln!("{} parameters, seed {seed}: {:.0} % right", trainer.params().numel(), 100.0 * right);
    Ok(answers)
}

fn testing(model: &impl Model, trainer: &Trainer, n: usize) -> Result<Plan> {
    let graph = Graph::new();
    let p = trainer.params().vars(&graph);
    let logits = model.logits(&p, graph.input("ids", TensorType::u32([BATCH, n]))).reshape([BATCH * n, TOKENS]);
    let losses = logits.cross_entropy(graph.input("labels", TensorType::u32([BATCH * n])), None);
    Device::cpu().compile_blocking(&graph, &[("losses", losses), ("said", logits.argmax(1))])
}

/// Mean of something over the answers that are meant.
pub fn of(answers: &[Answer], meant: impl Fn(&Answer) -> bool, what: impl Fn(&Answer) -> f64) -> f64 {
    let all: Vec<f64> = answers.iter().filter(|a| meant(a)).map(what).collect();
    all.iter().sum::<f64>() / all.len().max(1) as f64
}
