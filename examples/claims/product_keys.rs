//! A product-key memory holds more at the same compute (Lample et al. 2019, arXiv 1907.05242): perplexity on a language of
//! facts, against dense transformers of equal compute and of equal parameters. And new facts are learned with less
//! forgetting where only the slots that matter for them are trained (Lin et al. 2025, OpenReview LGo7U1m24L).
//!
//! `cargo run --release --example claims_product_keys`

mod facts;
mod support;

use facts::{ALL, Model, NEW, RATE, World, ask};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use support::{Line, Picture, Report, over};
use wgrad::models::product_key::{SlotUsage, choose_slots};
use wgrad::train::Group;
use wgrad::{Result, Tensor};

/// Learning rates of fine-tuning, for all ways alike.
const RATES: [f64; 2] = [RATE, RATE / 5.0];
/// Features of a token of the model with the memory.
const DIM: usize = 32;

/// What one seed measures of a model.
struct Measured {
    /// After each quarter of the steps.
    perplexity: Vec<f64>,
    right: f64,
    used: f64,
    divergence: f64,
    /// Ways to fine-tune: right answers to new and old questions.
    tuned: Vec<(String, [f64; 2])>,
}

fn measure(model: &Model, seed: u64, steps: usize) -> Result<Measured> {
    let world = World::new(&mut ChaCha8Rng::seed_from_u64(seed));
    let all = Tensor::u32([model.slots()], vec![1; model.slots()])?;
    let usage = SlotUsage::new("usage", model.slots());
    let rng = &mut ChaCha8Rng::seed_from_u64(seed + 1000);
    let mut trained = model.trainer(model.init(seed), (steps, RATE), Group::default())?;
    let plan = model.asking(trained.params(), &usage)?;
    let mut perplexity = Vec::new();
    for _ in 0..4 {
        model.train(&mut trained, rng, (world.old(), steps / 4), &all)?;
        perplexity.push(ask(&plan, &usage, trained.store(), world.old())?.0);
    }
    let learned = pollster::block_on(trained.read_params())?;
    let (_, right, background) = ask(&plan, &usage, trained.store(), world.old())?;
    let (_, _, of_new) = ask(&plan, &usage, trained.store(), world.new_facts())?;
    let frozen = Group::default().lr_factor(0.0);
    let mut ways = vec![("all parameters".to_owned(), Group::default(), all.clone())];
    if model.slots() > 0 {
        ways.push(("values of all slots".to_owned(), frozen, all));
        for count in [1024, 256] {
            ways.push((format!("values of {count} slots"), frozen, choose_slots(&of_new, &background, count)?));
        }
    }
    let mut tuned = Vec::new();
    for (way, rest, slots) in ways {
        for rate in RATES {
            let mut after = model.trainer(learned.clone(), (steps / 8, rate), rest)?;
            model.train(&mut after, rng, (world.new_facts(), steps / 8), &slots)?;
            let now = |facts| ask(&plan, &usage, after.store(), facts).map(|(_, right, _)| right);
            tuned.push((format!("{way}, rate {rate}"), [now(world.new_facts())?, now(world.old())?]));
        }
    }
    Ok(Measured {
        perplexity,
        right,
        used: 100.0 * background.share_used(),
        divergence: background.kl_to_uniform(),
        tuned,
    })
}

/// The width at which a dense model has nearest to so much of something.
fn width(target: f64, of: impl Fn(&Model) -> Result<f64>) -> Result<usize> {
    let mut best = (f64::MAX, 0);
    for dim in (16..=128).step_by(4) {
        let off = (of(&Model::new(dim, false)?)? / target).ln().abs();
        best = if off < best.0 { (off, dim) } else { best };
    }
    Ok(best.1)
}

fn run(report: &mut Report) -> Result<()> {
    let steps = report.args.size(1000, 8);
    let memory = Model::new(DIM, true)?;
    let size = |model: &Model| Ok(model.init(0).numel() as f64);
    let same_compute = width(memory.operations()?, Model::operations)?;
    let same_size = width(size(&memory)?, size)?;
    let (mut rows, mut tuned, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    let arms = [
        ("product keys", Model::new(DIM, true)?, DIM),
        ("dense, equal compute", Model::new(same_compute, false)?, same_compute),
        ("dense, equal parameters", Model::new(same_size, false)?, same_size),
    ];
    let all = report.args.each(&arms, |(_, model, _), seed| measure(model, seed, steps))?;
    for ((name, model, dim), runs) in arms.iter().zip(all) {
        let mut row =
            vec![(*name).to_owned(), format!("{:.0}", size(model)?), format!("{:.1}k", model.operations()? / 1e3)];
        row.extend((0..4).map(|quarter| over(&runs, 2, |run| run.perplexity[quarter])));
        row.push(over(&runs, 1, |run| run.right) + " %");
        rows.push(row);
        if model.slots() > 0 {
            let (used, divergence) = (over(&runs, 1, |run| run.used), over(&runs, 2, |run| run.divergence));
            report.say(&format!(
                "Of {} slots {used} % are read for the {} facts; the gates are {divergence} nats from uniform use \
                 (all on one slot: {:.2}).",
                model.slots(),
                ALL - NEW,
                (model.slots() as f64).ln()
            ));
        }
        for (i, (way, _)) in runs[0].tuned.iter().enumerate() {
            let cell = |which: usize| over(&runs, 1, |run| run.tuned[i].1[which]) + " %";
            tuned.push(vec![format!("{name}: {way}"), cell(0), over(&runs, 1, |run| run.right) + " %", cell(1)]);
        }
        let at = |quarter: usize| runs.iter().map(|run| run.perplexity[quarter]).collect();
        let points = (0..4).map(|quarter| ((steps * (quarter + 1) / 4) as f64, at(quarter))).collect();
        lines.push(Line { name: format!("{name} (width {dim})"), points });
    }
    report.say(&format!(
        "Perplexity of the objects of {} facts, of 64 objects, after each quarter of {steps} steps:",
        ALL - NEW
    ));
    let head = ["model", "parameters", "operations a token", "first", "second", "third", "last", "right"];
    report.table(&head, &rows);
    report.say(&format!("Then {NEW} new facts, {} steps:", steps / 8));
    report.table(&["what is fine-tuned", "new facts right", "old facts right before", "after"], &tuned);
    let axes = ["steps", "perplexity"];
    let title = "Perplexity of facts";
    report.picture("product_keys", &Picture { title, axes, factors: [false, true], lines: &lines })
}

fn main() -> std::process::ExitCode {
    support::program("product_keys", run)
}
