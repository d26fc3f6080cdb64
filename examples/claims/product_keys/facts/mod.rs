//! A language of facts, "subject relation object".

mod asking;
mod model;

pub use asking::ask;
pub use model::Model;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use wgrad::{Result, Tensor};

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
