//! Texts that name things once and ask for them later, near and far; and, if wanted, for facts that are true in all texts.

pub mod texts;

pub use texts::{Needs, TOKENS, Task};

use texts::{BATCH, facts, texts};
use wgrad::nn::{ParamVars, Params};
use wgrad::train::{AdamW, Group, Schedule, Trainer};
use wgrad::{Device, Feed, Graph, Plan, Result, TensorType, Var};

/// Batches of the test.
const TESTED: u64 = 8;

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

/// Mean of something over the answers that are meant; no number if there are none.
pub fn of(answers: &[Answer], meant: impl Fn(&Answer) -> bool, what: impl Fn(&Answer) -> f64) -> f64 {
    let all: Vec<f64> = answers.iter().filter(|a| meant(a)).map(what).collect();
    all.iter().sum::<f64>() / all.len() as f64
}
