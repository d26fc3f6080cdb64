//! Generating text.

use super::stream::InfiniStream;
use crate::error::{Error, Result};
use crate::exec::Store;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Which tokens may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Filter {
    /// All.
    None,
    /// The likeliest tokens, up to and including the one at which the cumulative probability passes the threshold
    /// (nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751).
    TopP(f32),
    /// The `k` likeliest.
    TopK(usize),
    /// The likeliest `ceil(fraction * vocabulary)`.
    TopFraction(f32),
}

/// How tokens are drawn; defaults are those of the package.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Which tokens may be drawn.
    pub filter: Filter,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 1.0, filter: Filter::TopP(0.9), seed: 0 }
    }
}

impl Sampling {
    /// The random numbers for one token: they depend on the seed, the text's number and the place of the token alone, so that
    /// generating in several calls gives what one call gives.
    fn generator(&self, text: usize, place: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(((text as u64) << 40) | (place & ((1 << 40) - 1)));
        rng
    }

    /// Draws one token from logits by the Gumbel-max trick.
    fn draw(&self, logits: &[f32], rng: &mut ChaCha8Rng) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        let keep = match self.filter {
            Filter::None => order.len(),
            Filter::TopK(k) => k,
            Filter::TopFraction(f) => (f * order.len() as f32).ceil() as usize,
            Filter::TopP(threshold) => nucleus(logits, &order, threshold),
        };
        order.truncate(keep.max(1));
        let temperature = self.temperature.max(1e-10);
        let mut best = (f32::NEG_INFINITY, 0);
        for token in order {
            // One draw a token, also if the temperature makes it irrelevant: seeds stay comparable.
            let u: f32 = rng.random::<f32>().max(1e-20);
            let noise = if self.temperature > 0.0 { -(-u.ln()).max(1e-20).ln() } else { 0.0 };
            let score = logits[token] / temperature + noise;
            if score > best.0 {
                best = (score, token);
            }
        }
        best.1 as u32
    }
}

/// How many of the tokens, likeliest first, lie in the nucleus.
fn nucleus(logits: &[f32], order: &[usize], threshold: f32) -> usize {
    let Some(&first) = order.first() else { return 0 };
    let weights: Vec<f32> = order.iter().map(|i| (logits[*i] - logits[first]).exp()).collect();
    let total: f32 = weights.iter().sum();
    let mut before = 0.0;
    weights
        .iter()
        .take_while(|w| {
            let inside = before <= threshold;
            before += **w / total;
            inside
        })
        .count()
}

impl InfiniStream {
    /// Continues each text by `count` tokens and returns the new ones. Each text must have been fed at least one token.
    pub async fn generate(&mut self, parameters: &Store, count: usize, sampling: Sampling) -> Result<Vec<Vec<u32>>> {
        if let Some(i) = self.tokens_read().iter().position(|n| *n == 0) {
            let message = format!("text {i} is empty; feed at least one token to continue from");
            return Err(Error::argument("generate", message));
        }
        let batch = self.tokens_read().len();
        let mut out: Vec<Vec<u32>> = vec![Vec::with_capacity(count); batch];
        for _ in 0..count {
            let logits = self.logits().await?;
            let width = logits.floats().len() / batch.max(1);
            let mut next = Vec::with_capacity(batch);
            for (i, row) in logits.floats().chunks(width.max(1)).enumerate() {
                if row.iter().any(|x| x.is_nan()) {
                    let message =
                        format!("the logits of text {i} are not finite; the parameters have overflowed or are damaged");
                    return Err(Error::argument("generate", message));
                }
                next.push(sampling.draw(row, &mut sampling.generator(i, self.tokens_read()[i])));
            }
            let tokens: Vec<&[u32]> = next.iter().map(std::slice::from_ref).collect();
            self.feed(parameters, &tokens)?;
            out.iter_mut().zip(&next).for_each(|(o, t)| o.push(*t));
        }
        Ok(out)
    }

    /// [`generate`](Self::generate), waiting on this thread.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn generate_blocking(&mut self, parameters: &Store, count: usize, sampling: Sampling) -> Result<Vec<Vec<u32>>> {
        pollster::block_on(self.generate(parameters, count, sampling))
    }
}
