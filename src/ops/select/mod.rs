//! Selection: the largest entries of rows, taking and scattering along an axis, drawing tokens.

pub mod along;
pub mod sample;
pub mod top_k;
mod top_k_cpu;

pub use sample::{Sampling, SamplingVars};
pub use top_k::TopK;
