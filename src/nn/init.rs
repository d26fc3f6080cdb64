//! How parameters start.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a parameter starts. Random values depend on the seed and the parameter's name only, not on the order in which
/// parameters are added, and are the same on every platform.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// All the same.
    Constant(f32),
    /// Normal around 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// Uniform in (-bound, bound).
    Uniform {
        /// Largest magnitude.
        bound: f32,
    },
    /// Given values, row-major.
    Values(Vec<f32>),
}

impl Init {
    /// `n` values of the parameter `name`.
    pub(super) fn draw(&self, seed: u64, name: &str, n: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::from_seed(key(seed, name));
        // 32 random bits, in the middle of their interval: never 0 or 1.
        let mut unit = || (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.0;
        match self {
            Init::Zeros => vec![0.0; n],
            Init::Ones => vec![1.0; n],
            Init::Constant(value) => vec![*value; n],
            Init::Uniform { bound } => {
                let bound = f64::from(*bound);
                (0..n).map(|_| ((2.0 * unit() - 1.0) * bound) as f32).collect()
            }
            Init::Normal { std } => {
                // Box and Muller 1958, with functions that are the same on every platform.
                let mut values = Vec::with_capacity(n + 1);
                while values.len() < n {
                    let radius = f64::from(*std) * libm::sqrt(-2.0 * libm::log(unit()));
                    let angle = 2.0 * std::f64::consts::PI * unit();
                    values.push((radius * libm::cos(angle)) as f32);
                    values.push((radius * libm::sin(angle)) as f32);
                }
                values.truncate(n);
                values
            }
            Init::Values(values) => values.clone(),
        }
    }
}

/// Key of a parameter's random numbers: the seed and two hashes of the name (FNV-1a with different starts).
fn key(seed: u64, name: &str) -> [u8; 32] {
    let hash = |start: u64| name.bytes().fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let words = [seed, hash(0xcbf2_9ce4_8422_2325), hash(0x8422_2325_cbf2_9ce4), name.len() as u64];
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    key
}
