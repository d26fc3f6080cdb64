//! The texts, drawn from a seed.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wgrad::{Result, Tensor};

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
/// Texts of a step.
pub const BATCH: usize = 8;

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
pub struct Texts {
    pub ids: Tensor,
    pub labels: Tensor,
    pub asked: Vec<(usize, Needs)>,
}

/// Drawn from seed and step. Things are named in the first half.
pub fn texts(task: Task, facts: Option<&[u32]>, seed: u64, step: u64) -> Result<Texts> {
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
