//! One model, one seed: trained, asked, and fine-tuned in several ways.

use super::facts::{Model, RATE, World, ask};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wgrad::models::product_key::{SlotUsage, choose_slots};
use wgrad::train::Group;
use wgrad::{Result, Tensor};

/// Learning rates of fine-tuning, for all ways alike.
const RATES: [f64; 2] = [RATE, RATE / 5.0];

/// What one seed measures of a model.
pub struct Measured {
    /// After each quarter of the steps.
    pub perplexity: Vec<f64>,
    pub right: f64,
    pub used: f64,
    pub divergence: f64,
    /// Ways to fine-tune: right answers to new and old questions.
    pub tuned: Vec<(String, [f64; 2])>,
}

pub fn measure(model: &Model, seed: u64, steps: usize) -> Result<Measured> {
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
