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

/// The values of one parameter from its first on. However they are cut into pieces, they are the same.
pub(crate) struct Draw<'a> {
    init: &'a Init,
    rng: ChaCha8Rng,
    /// Second of a pair of normal numbers whose first ended a piece.
    spare: Option<f32>,
    /// Values drawn.
    at: usize,
}

impl Init {
    /// Values of the parameter `name`.
    pub(super) fn draw(&self, seed: u64, name: &str) -> Draw<'_> {
        Draw { init: self, rng: ChaCha8Rng::from_seed(key(seed, name)), spare: None, at: 0 }
    }
}

impl Draw<'_> {
    /// Writes the next values.
    pub fn fill(&mut self, out: &mut [f32]) {
        match self.init {
            Init::Zeros => out.fill(0.0),
            Init::Ones => out.fill(1.0),
            Init::Constant(value) => out.fill(*value),
            Init::Uniform { bound } => {
                let bound = f64::from(*bound);
                out.iter_mut().for_each(|o| *o = ((2.0 * self.unit() - 1.0) * bound) as f32);
            }
            Init::Normal { std } => {
                let std = f64::from(*std);
                out.iter_mut().for_each(|o| *o = self.normal(std));
            }
            Init::Values(values) => {
                let given = values.get(self.at..).unwrap_or_default();
                out.iter_mut().zip(given).for_each(|(o, v)| *o = *v);
            }
        }
        self.at += out.len();
    }

    /// 32 random bits, in the middle of their interval: never 0 or 1.
    fn unit(&mut self) -> f64 {
        (f64::from(self.rng.next_u32()) + 0.5) / 4_294_967_296.0
    }

    /// Box and Muller 1958, with functions that are the same on every platform.
    fn normal(&mut self, std: f64) -> f32 {
        if let Some(second) = self.spare.take() {
            return second;
        }
        let radius = std * libm::sqrt(-2.0 * libm::log(self.unit()));
        let angle = 2.0 * std::f64::consts::PI * self.unit();
        self.spare = Some((radius * libm::sin(angle)) as f32);
        (radius * libm::cos(angle)) as f32
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
