//! Sparse memory fine-tuning: new facts without forgetting the old ones, by training only slots that matter for the new
//! facts and for little else (Lin et al. 2025, OpenReview LGo7U1m24L). Prints what three ways to fine-tune learn and forget.
//!
//! `cargo run --release --example pkm_finetune`

mod model;

use model::{BATCH, DIM, Facts, Model, TOPICS, facts};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::models::product_key::{SlotUsage, Usage, choose_slots};
use wgrad::nn::Params;
use wgrad::train::Group;
use wgrad::{Device, Feed, Plan, Result, Store, Tensor};

/// Batches of old facts.
const OLD: usize = 32;
/// Slots that sparse fine-tuning trains, of 1,024.
const TRAINED: usize = 200;

/// Share of right answers, and how slots are used for them.
fn ask(plan: &Plan, usage: &SlotUsage, store: &Store, facts: &[Facts]) -> Result<(f64, Usage)> {
    let counts = Store::new(store.device());
    usage.reset(&counts)?;
    let mut right = 0;
    for f in facts {
        plan.run(&Feed::new().store(store).store(&counts).input("x", &f.x))?;
        let answers = plan.read_blocking("answer")?;
        right += answers.ints().iter().zip(f.y.ints()).filter(|(a, y)| a == y).count();
    }
    Ok((right as f64 / (facts.len() * BATCH) as f64, usage.read_blocking(&counts)?))
}

fn main() -> anyhow::Result<()> {
    let device = Device::auto_blocking()?;
    println!("device: {device}");
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    let topics: Vec<f32> = (0..TOPICS * DIM).map(|_| rng.random_range(-1.7f32..1.7)).collect();
    let old = (0..OLD).map(|_| facts(rng, &topics)).collect::<Result<Vec<_>>>()?;
    let new = [facts(rng, &topics)?];
    let mut params = Params::new(1);
    let model = Model::new(&mut params)?;
    let usage = SlotUsage::new("usage", model.slots());
    let all = Tensor::u32([model.slots()], vec![1; model.slots()])?;

    let mut first = model.trainer(&device, params, Group::default())?;
    for step in 0..40 * OLD {
        let f = &old[step % OLD];
        first.step(&[("x", &f.x), ("y", &f.y), ("slots", &all)])?;
    }
    let learned = pollster::block_on(first.read_params())?;
    let plan = model.answering(&device, first.params(), &usage)?;
    let (before, background) = ask(&plan, &usage, first.store(), &old)?;
    let (_, use_of_new) = ask(&plan, &usage, first.store(), &new)?;
    let chosen = choose_slots(&use_of_new, &background, TRAINED)?;
    println!("{} facts learned: {:.0} % right", OLD * BATCH, 100.0 * before);
    println!(
        "slots: {} in all, {} read for {BATCH} new facts",
        model.slots(),
        use_of_new.hits.iter().filter(|h| **h > 0.0).count()
    );
    println!("{:<38} {:>10} {:>10}", "fine-tuned on the new facts", "new right", "old right");

    let frozen = Group::default().lr_factor(0.0);
    let ways = [
        ("all parameters".to_owned(), Group::default(), &all),
        ("values of all slots".to_owned(), frozen, &all),
        (format!("values of {TRAINED} slots by TF-IDF"), frozen, &chosen),
    ];
    for (name, rest, slots) in ways {
        let mut tuned = model.trainer(&device, learned.clone(), rest)?;
        for _ in 0..150 {
            tuned.step(&[("x", &new[0].x), ("y", &new[0].y), ("slots", slots)])?;
        }
        let (right_new, _) = ask(&plan, &usage, tuned.store(), &new)?;
        let (right_old, _) = ask(&plan, &usage, tuned.store(), &old)?;
        println!("{name:<38} {:>8.0} % {:>8.0} %", 100.0 * right_new, 100.0 * right_old);
    }
    Ok(())
}
